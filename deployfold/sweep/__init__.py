"""Sweeps: the missing builds of models × precisions × targets, in parallel.

:mod:`.fleet` reads the TOML file, :mod:`.identity` hashes the inputs of a build, :mod:`.jobs` finds
the missing builds, :mod:`.work` runs one build in its own process, :mod:`.schedule` runs all builds
on this machine, :mod:`.cluster` runs them on Dask, and :mod:`.summary` reports on all.
"""
