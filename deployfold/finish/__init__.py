"""Finishes a build on its device: the kit that a build writes, and the command that uses it.

A device may lack torch, onnx and ONNX Runtime. Only :func:`.kit.write_finish_kit`, which runs in a
build, imports onnx.
"""
