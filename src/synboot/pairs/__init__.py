"""Which documents are related: encoders, neighbours, filters."""
