"""deployfold compare: two builds, or two forms of one model."""
