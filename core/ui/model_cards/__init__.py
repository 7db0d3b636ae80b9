"""The Model cards page: cards of runs and networks, and their checks."""
