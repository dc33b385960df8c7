"""The chain from study to graded structures, its metrics, and the command line."""
