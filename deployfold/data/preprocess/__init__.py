"""Image preprocessing: resize, crop, scale, normalise, layout."""
