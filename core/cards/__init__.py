"""Model cards: what is known of a run or an encoder in words and figures, and reporting checklists made from it.

Everything is read from records; what no record holds is said to be open, never filled in.
"""
