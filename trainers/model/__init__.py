"""A model, whatever is done to it: where it comes from, its layers, and a probe of its first step."""
