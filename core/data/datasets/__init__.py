"""Loaders of data sets, one module a publisher."""
