"""A U-Net of heat maps: point regression."""
