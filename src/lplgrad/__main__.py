"""``python -m lplgrad``: the command line."""

import sys

from lplgrad.cli import main

sys.exit(main())
