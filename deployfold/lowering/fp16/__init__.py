"""FP16: which nodes can take it, and writing them."""
