"""A training run: its steps, its directory, and the commands that fit, train and encode."""
