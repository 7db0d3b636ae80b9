"""Everything of Lowshot that can be used without training and without a browser."""
