"""The sections of the Compare page, one module each. `show(view)` draws a section and computes only what it shows."""
