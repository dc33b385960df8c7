"""Annotation sources and dataset formats, read and written."""
