"""YOLO networks through ``ultralytics``."""
