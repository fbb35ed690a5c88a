"""Corpora that synboot makes itself, so that every user has one at hand."""
