"""What the instruments are worth, shown where the truth is known: `python -m calibration`."""
