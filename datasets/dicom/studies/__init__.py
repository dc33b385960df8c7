"""The files below a source, and the studies that they belong to."""
