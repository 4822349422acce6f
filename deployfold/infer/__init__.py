"""deployfold run: one inference with any artifact."""
