"""Slices in series and stacks, and what speaks against a stack."""
