"""The service: HTTP requests to pictures and codes, over one pair of models in one process."""
