"""Nearest neighbours of a set of vectors within itself, by inner product."""
