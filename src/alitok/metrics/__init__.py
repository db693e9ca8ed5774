"""Floor 2: numbers from pictures (B, 3, h, w) and codes (B, T); metrics see neither models nor data sources."""
