"""The command line: one sub-command for each rule of the workflow, each of use without it."""

from __future__ import annotations

import argparse
import errno
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from lplgrad import __version__
from lplgrad.errors import UserError
from lplgrad.interruption import Interrupted, ends_cleanly

# In the order in which data flows.
COMMANDS = (
    "prepare", "start", "train", "query", "observe", "study", "measurements", "timings", "table", "figure",
    "statistics", "diagnostics", "compare", "claims", "report", "status", "estimate", "schema",
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The parser, with a sub-parser for each command."""
    top = argparse.ArgumentParser(prog="lplgrad", description="Deep active learning on images, a round at a time.")
    top.add_argument("--version", action="version", version=f"lplgrad {__version__}")
    subparsers = top.add_subparsers(required=True, metavar="command")
    for name in COMMANDS:
        command = importlib.import_module(f"lplgrad.commands.{name}")
        description = (command.__doc__ or "").strip()
        sub = subparsers.add_parser(
            name,
            help=description.split(":")[0].rstrip("."),
            description=description,
            epilog=f"example:\n  {command.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run, prog=sub.prog)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command. A mistake of the user's is one line and exit status 1; a bug is a traceback."""
    # Importing torch makes a million objects that live to the end; to look for garbage among them every 700 is a tenth
    # of what a small job costs.
    gc.set_threshold(100_000)
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        parser().print_help(sys.stderr)
        return 2
    parsed = parser().parse_args(given)
    try:
        parsed.run(parsed)
    except UserError as error:
        return _fail(parsed.prog, str(error))
    except BrokenPipeError:
        return 0  # whoever read the output has gone
    except MemoryError as error:
        return _fail_for_memory(parsed.prog, str(error))
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename is not None else str(error.strerror)
        if error.errno == errno.ENOMEM:
            return _fail_for_memory(parsed.prog, told)
        if error.filename is None:
            raise
        return _fail(parsed.prog, told)
    except RuntimeError as error:
        from lplgrad.devices import lacks_memory

        if "torch" not in sys.modules or not lacks_memory(error):
            raise
        return _fail_for_memory(parsed.prog, str(error))
    except Interrupted as error:
        return _fail(parsed.prog, str(error), status=128 + error.number)
    except KeyboardInterrupt:
        return _fail(parsed.prog, "interrupted", status=130)
    return 0


def run() -> NoReturn:
    """The program: ``main``, and out. All files are closed by then, and taking torch apart again would cost a third of
    what importing it did.
    """
    ends_cleanly()
    status = main()
    with suppress(BrokenPipeError):  # whoever read the output has gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _fail_for_memory(prog: str, told: str) -> int:
    cause = f" ({told.splitlines()[0]})" if told else ""  # Python's own MemoryError says nothing
    hint = "lower compute.jobs_per_gpu if other jobs share the card, or Snakemake's --cores on a processor"
    return _fail(prog, f"out of memory{cause}; {hint}")


def _fail(prog: str, message: str, status: int = 1) -> int:
    with suppress(OSError):
        print(f"{prog}: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return status
