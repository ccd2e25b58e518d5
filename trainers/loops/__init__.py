"""The two training loops and what they share."""
