"""Floor 4: the loop, the optimizer and the three trainings; alone owns optimizers, alone joins models and losses."""
