"""Trainings that the app starts: each a process of its own that outlives the page, with all there is to know on disk.

A job is a folder. The app writes what is asked for and reads what came of it; `core.jobs.worker` runs one job at a
time; what runs is `python -m trainer curve`, which is never imported here.
"""
