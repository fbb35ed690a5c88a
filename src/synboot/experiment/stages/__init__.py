"""The only place where domain functions become stages of the pipeline."""
