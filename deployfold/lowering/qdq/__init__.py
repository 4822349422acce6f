"""The family ``qdq``: layers quantised by Q/DQ nodes and held to an accuracy."""
