"""Results of ``pipeline predict`` as an annotation source."""
