"""The language model: architecture, cached decoding, FLOP counts."""
