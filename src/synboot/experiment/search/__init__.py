"""Tuning every arm alike, on validation text alone."""
