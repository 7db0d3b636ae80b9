"""The sections of the Compare page, one module each: `show(view)` draws what is chosen there and computes no more."""
