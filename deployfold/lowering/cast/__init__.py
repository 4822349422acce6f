"""The family ``cast``: tensors in 16 bits, and nodes that stay in fp32 where 16 bits do not do."""
