"""What runs beside: sweeps, housekeeping, pruning, copies of models."""
