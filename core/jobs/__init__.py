"""Training jobs started from the app, each a process that outlives the page and keeps its state on disk.

A job is a folder. The app writes the request and reads the results. `core.jobs.worker` runs one job at a time. It runs
commands of `python -m trainer`, which is never imported here.
"""
