"""Annotation sources, one module each, which read and check them and make records."""
