"""Bundles: one file with everything that a device needs of a build, and every byte checked.

Nothing here imports torch. Making and unpacking a bundle needs neither a GPU nor the package onnx.
"""
