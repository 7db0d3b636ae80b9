"""Parts of the Learning curves page."""
