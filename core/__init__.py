"""The parts of Lowshot that need neither training nor a browser."""
