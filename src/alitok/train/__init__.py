"""The training loop, optimizers and the trainings themselves: the only place where models and losses meet."""
