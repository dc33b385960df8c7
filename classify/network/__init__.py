"""The network of a classifier: its layers, how it is built, and its weights files."""
