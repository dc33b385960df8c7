"""Synthetic studies of lumbar and cervical spines, with their annotation."""
