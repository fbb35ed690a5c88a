"""What every other room stands on: errors, configuration, storage, randomness, events, verdicts."""
