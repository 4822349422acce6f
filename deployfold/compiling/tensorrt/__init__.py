"""Engines by TensorRT 10, TensorRT 11 and TensorRT-RTX."""
