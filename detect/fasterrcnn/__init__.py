"""Faster R-CNN through torchvision."""
