"""Applying a plan: new weights, and forwards without the folded layers."""
