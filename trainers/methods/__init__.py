"""The methods: what each does to model, optimizer and arithmetic, and what proves that it did."""
