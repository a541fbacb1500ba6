"""What stands between the network and the routes: connections, and what browsers may send."""
