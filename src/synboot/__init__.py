"""synboot: synthetic bootstrapped pretraining (arXiv 2509.15248), from a corpus to the proof."""

__version__ = "0.1.0"
