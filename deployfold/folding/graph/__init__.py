"""The operators, tensors and module calls of a forward pass, and the affine layers among them."""
