"""Dataset formats, one module each: written and read."""
