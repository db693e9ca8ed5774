"""Presets, recipes fitted to the data, ablation arms, published numbers."""
