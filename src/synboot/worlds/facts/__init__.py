"""Invented persons, what is true of them, and texts whose every statement can be checked."""
