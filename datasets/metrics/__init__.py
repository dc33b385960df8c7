"""Metrics that detection, classification and the whole pipeline share."""
