"""Bundled weights and their registry."""
