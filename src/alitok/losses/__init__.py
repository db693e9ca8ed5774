"""Training objectives, and the networks that score images for them."""
