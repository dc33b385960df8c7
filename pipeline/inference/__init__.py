"""From frames to named, graded structures; knows nothing of files that are written."""
