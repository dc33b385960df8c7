"""Plain YOLO and COCO datasets, which spineline did not write."""
