"""Fleets of builds: models × precisions × targets, in parallel, and only what is not there yet.

:mod:`.fleet` reads the TOML file, :mod:`.jobs` finds what is to be built, :mod:`.work` builds one
job in a process of its own, :mod:`.schedule` runs them here or on a Dask cluster, and
:mod:`.summary` is the report of all.
"""
