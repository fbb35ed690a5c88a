"""Held-out scores of the arms, what can be said of their differences, and how surely."""
