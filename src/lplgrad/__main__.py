"""``python -m lplgrad``: the command line."""

from lplgrad.cli import run

run()
