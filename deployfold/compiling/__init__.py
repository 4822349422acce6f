"""Builds engines: plans them by GPU and library, and builds each in its own process.

Each library has a folder. ``compile.py`` runs in this process and starts the worker; ``builder.py``
runs in the worker and is the only module that imports TensorRT.
"""
