"""Findings from stored runs: comparisons, operating points, two stages, shortcuts, subgroups."""
