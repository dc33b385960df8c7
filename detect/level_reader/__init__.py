"""The network that reads levels from the straightened spine."""
