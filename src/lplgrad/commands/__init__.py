"""The sub-commands of the command line, a module each: what it reads, what it calls, what it writes.

A module has ``add_arguments(parser)`` and ``run(arguments)``, a docstring that is its help, and an ``EXAMPLE``. Its
imports at the top are light, so that ``lplgrad --help`` is quick; ``run`` imports the rest.
"""
