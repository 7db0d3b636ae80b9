"""The Diagnose page: results kept in the session, the batch table, and the view of one image."""
