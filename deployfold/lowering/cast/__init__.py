"""The family ``cast``: tensors in 16 bits; nodes that need more range or accuracy stay in fp32."""
