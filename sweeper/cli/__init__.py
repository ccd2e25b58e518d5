"""What a person types and sees: the only files that print."""
