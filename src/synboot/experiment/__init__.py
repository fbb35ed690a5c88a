"""Recipes, stages, arms, statistics and the report."""
