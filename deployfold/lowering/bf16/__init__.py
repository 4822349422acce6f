"""BF16: writing it into a graph."""
