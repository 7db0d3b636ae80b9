"""MAML and prototypical networks."""
