"""A local page to review and correct results, and commands that use the corrections."""
