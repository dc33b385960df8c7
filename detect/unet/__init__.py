"""A U-Net that finds points as peaks of heat maps."""
