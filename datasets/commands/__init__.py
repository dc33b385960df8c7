"""The commands of ``spineline data``."""
