"""Annotation sources, one module each: read, checked, made into records."""
