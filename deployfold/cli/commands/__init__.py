"""One file a command. :mod:`deployfold.cli.discovery` finds them; there is no list to extend.

A file ``NAME.py`` holds a function, or a typer application, that is called ``NAME`` too. Its
docstring is the command's help, and the first line of that its summary in ``deployfold --help``.
"""
