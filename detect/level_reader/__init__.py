"""The network that reads levels off the straightened spine."""
