"""deployfold bench: measure existing files."""
