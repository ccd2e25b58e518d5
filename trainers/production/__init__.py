"""The production run: checkpoints, resuming, publishing."""
