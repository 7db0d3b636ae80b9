"""The Train page: the form of a new job, and the panel of each job."""
