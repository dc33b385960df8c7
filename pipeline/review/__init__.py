"""A local page to look through results and correct them, and what takes the corrections up."""
