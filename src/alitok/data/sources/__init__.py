"""Image sources: folders, labels files, tar archives, tables, Hugging Face data sets and the built-in sets."""
