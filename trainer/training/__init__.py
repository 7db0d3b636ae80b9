"""From settings to a stored run: plans, fitting, heads, losses, optimizers."""
