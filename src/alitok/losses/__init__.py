"""Floor 2: what training minimises, and the networks that judge images for it.

Sees images and tensors by name; returns named terms.
"""
