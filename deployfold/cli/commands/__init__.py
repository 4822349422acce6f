"""The commands, one module each. :mod:`deployfold.cli.discovery` finds them without a list.

A module ``NAME.py`` has a function or a typer application with the same name. The module's
docstring is the command's help; its first line is the summary in ``deployfold --help``.
"""
