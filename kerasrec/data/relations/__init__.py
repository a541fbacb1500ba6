"""What items have to do with each other: what must come before."""
