"""The words that annotators use for levels and grades, and what they stand for here."""
