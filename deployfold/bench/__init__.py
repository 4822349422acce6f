"""deployfold bench: time files that exist already."""
