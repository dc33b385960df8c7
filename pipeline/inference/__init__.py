"""From frames to named, graded structures; independent of the files that are written."""
