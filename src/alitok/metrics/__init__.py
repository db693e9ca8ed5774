"""Floor 2: numbers from images (B, 3, h, w) and codes (B, T); metrics see neither models nor data sources."""
