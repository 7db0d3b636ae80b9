"""Parts of the Diagnose page."""
