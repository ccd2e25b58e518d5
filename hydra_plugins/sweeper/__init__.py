"""sweeper as a Hydra plugin."""
