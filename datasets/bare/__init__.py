"""Data sets that spineline did not write: bare YOLO and bare COCO ones."""
