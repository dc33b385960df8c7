"""Synthetic studies of lumbar and cervical spines, drawn with their annotation."""
