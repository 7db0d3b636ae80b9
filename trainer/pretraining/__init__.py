"""Further pretraining of encoders on medical images."""
