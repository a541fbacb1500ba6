"""What is held out, what of it a version learns at the end, and how much groups of users count."""
