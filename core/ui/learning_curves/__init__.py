"""The section of the Learning curves page on label efficiency."""
