"""Examples become batches, the same for every trial."""
