"""What every part uses: errors, files, settings, run records, logs, tables, plots."""
