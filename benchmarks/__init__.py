"""What the project's claims rest on: each script says what it measures and writes it to `results/`."""
