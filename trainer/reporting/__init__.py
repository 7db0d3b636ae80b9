"""Reports and document tables from stored runs."""
