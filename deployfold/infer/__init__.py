"""deployfold run: run one inference with an artifact."""
