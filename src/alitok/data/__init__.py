"""Where images and codes come from: image sources, code stores, and batches determined by seed and step alone."""
