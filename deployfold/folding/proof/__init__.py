"""The float64 proof that the folded model computes the same function."""
