"""The slices of a study to read, and how their findings are joined."""
