"""Sweeps: builds of models × precisions × targets, in parallel, as far as they are missing.

:mod:`.fleet` reads the TOML file, :mod:`.identity` hashes what decides a build, :mod:`.jobs` finds
the missing builds, :mod:`.work` runs one in a process of its own, :mod:`.schedule` runs all of them
on this machine, :mod:`.cluster` runs them on Dask, and :mod:`.summary` reports on all.
"""
