"""Annotators' words for levels and grades, and their meaning here."""
