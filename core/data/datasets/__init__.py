"""Loaders of data sets, one module per publisher."""
