"""Stages, artifacts and the runner. Knows nothing of machine learning."""
