"""Losses and answers on held-out examples."""
