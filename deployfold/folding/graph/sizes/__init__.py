"""How a forward's Python code depends on the sizes of its input: comparisons and branches."""
