"""The slices of a study that are looked at, and how what they show is joined."""
