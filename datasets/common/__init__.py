"""Shared by all packages: errors, files, settings, run records, logs, tables, plots."""
