"""Parts of the Model cards page."""
