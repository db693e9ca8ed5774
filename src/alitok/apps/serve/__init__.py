"""The service: HTTP requests to images and codes, over one pair of models in one process."""
