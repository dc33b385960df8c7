"""The files of one study and of a run."""
