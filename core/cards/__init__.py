"""Model cards of runs and encoders, and reporting checklists made from them.

Everything is read from records. What no record contains is marked as open, never filled in.
"""
