"""How an image becomes an input: resize, crop, scale, normalise, layout."""
