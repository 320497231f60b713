"""The command line of portions."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from lplgrad import portions
from lplgrad.errors import UserError
from lplgrad.portions import merge, pack, run


def positive(text: str) -> int:
    """A count."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The parser, with a sub-parser for each verb."""
    assert portions.__doc__ is not None
    top = argparse.ArgumentParser(
        prog="lplgrad.portions", description=portions.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = top.add_subparsers(required=True, metavar="pack|run|merge")
    packing = verbs.add_parser("pack", help=pack.pack.__doc__)
    packing.add_argument("files", nargs="*", metavar="FILE", help="configuration, merged over config.yaml")
    packing.add_argument("--no-wheels", action="store_true", help="the other machine has all packages")
    packing.set_defaults(verb=lambda given: pack.pack(given.files, given.no_wheels))
    running = verbs.add_parser("run", help=run.run.__doc__)
    running.add_argument("--chains", type=positive, default=1, help="how many run at a time and share the GPU (1)")
    running.add_argument("--at-most", type=positive, default=8, metavar="N", help="chains in this portion (8)")
    running.add_argument("--minutes", type=float, default=9, help="after which what still runs is ended (9)")
    running.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the archives")
    running.set_defaults(verb=lambda given: run.run(given.output, given.chains, given.at_most, given.minutes))
    merging = verbs.add_parser("merge", help=merge.merge.__doc__)
    merging.add_argument("archives", type=Path, nargs="+", metavar="ARCHIVE")
    merging.set_defaults(verb=lambda given: merge.merge(given.archives))
    return top


def main() -> None:
    """Do what is asked for. A mistake is one line and exit status 1."""
    arguments = parser().parse_args()
    try:
        if not Path("Snakefile").exists() or not Path("config.yaml").exists():
            raise UserError("call it in the project's folder, where the Snakefile is")
        arguments.verb(arguments)
    except UserError as error:
        sys.exit(f"portions: error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"portions: error: {' '.join(error.cmd[:6])} ... failed with status {error.returncode}")


if __name__ == "__main__":
    main()
