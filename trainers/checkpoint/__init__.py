"""A model's folder, looked at before its weights are loaded: what it lacks, and what it must not be."""
