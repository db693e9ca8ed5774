"""Floor 2: what training minimises. Sees images and tensors by name; returns named terms."""
