"""Floor 1: the parts every transformer here is made of; knows nothing of images, codes or data."""
