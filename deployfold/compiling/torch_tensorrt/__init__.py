"""Compiling a .pt2 with torch-tensorrt."""
