"""Metrics of detections: COCO, one-to-one matching, level accuracy, the older project's rule."""
