"""Floor 1: where images and codes come from.

Leaves as uint8 images (3, h, w) from a source, code sequences (n, T) from a store, and batches of either whose
content depends on the seed and the step alone.
"""
