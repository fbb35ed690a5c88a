"""The synthesizer: row template, sampling engine, text filters."""
