"""Documents to unit vectors.

Closed system by default: fitted on the corpus, nothing from outside.
"""
