"""deployfold compare: compare two builds, or two forms of one model layer by layer."""
