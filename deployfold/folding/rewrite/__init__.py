"""Applying a plan to a model: write new weights and remove the folded layers from forwards."""
