"""Developers' measurements of the program against its limits. They are not part of the product."""
