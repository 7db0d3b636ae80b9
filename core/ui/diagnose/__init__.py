"""The Diagnose page: predictions kept for the visit, the batch table, and the view of one image."""
