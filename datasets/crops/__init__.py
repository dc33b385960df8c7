"""Crops of single vertebrae and discs, in memory and as folders."""
