"""The family ``qdq``: quantises layers with Q/DQ nodes, and holds the model to an accuracy."""
