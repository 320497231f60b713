"""``lplgrad label``: label the images that wait, on a local page or with answers from a file."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from threading import Lock
from urllib.parse import quote

from lplgrad.datasets.prepared.growing import Hashes, contents
from lplgrad.labeling.batch import COLUMNS, Asked, Batch
from lplgrad.labeling.label_studio import read_export, write_tasks
from lplgrad.labeling.server import serve
from lplgrad.labeling.waiting import Waiting, is_at, listing, waiting
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import unescaped
from lplgrad.machine.tables import read_table
from lplgrad.study.layout import Layout
from lplgrad.study.reading import read_configuration
from lplgrad.study.settings import Study


def run(arguments: argparse.Namespace) -> None:
    """Open the page, or import answers, write tasks, or finish a batch.

    Raises:
        UserError: no images wait, or the answers have a mistake.
    """
    if sum(map(bool, (arguments.imported, arguments.tasks, arguments.finish))) > 1:
        raise UserError("--import, --tasks and --finish cannot be combined; give one at a time")
    study = read_configuration(arguments.files)
    if study.person is None:
        raise UserError(
            f"{arguments.files[-1]}: no data set that runs has oracle: person, so there is nothing to label"
        )
    layout = Layout(study)
    here = waiting(study, layout)
    if here is None:
        raise UserError(f"no images wait for a label; run Snakemake with {arguments.files[-1]} first")
    if not len(here.batch):
        raise UserError("no images wait for a label: the budget is spent, or all images have one")
    batch, command = here.batch, f"snakemake --configfile {shlex.join(map(str, arguments.files))}"
    batch.write()
    _fill_in(here)
    if arguments.imported:
        path = arguments.imported
        if path.suffix.lower() == ".json":
            rows = read_export(path, [image.file for image in batch.images])
        else:
            rows = read_table(path, COLUMNS[:2])
        print(f"{batch.merge(path, rows)} new answers; {_left(batch)}")
    elif arguments.tasks:
        if arguments.tasks.suffix != ".json" or arguments.tasks.exists():
            raise UserError(f"--tasks: {arguments.tasks}: name a new file that ends in .json")
        folder = listing(study).folder.absolute()
        prefix = f"/data/local-files/?d={quote(os.fsencode(folder.name))}/"  # Label Studio's root is the folder above
        print(f"{arguments.tasks} and {write_tasks(batch, arguments.tasks, prefix, f'round {here.round}')}")
    elif arguments.finish:
        left = batch.finish()
        then = f"continue with: {command}" if left < len(batch) else "label some of them before you continue"
        print(f"{left} images stay without a label; {then}")
    else:
        options = study.datasets[study.person].checked_options
        browser, value_range = not arguments.no_browser, getattr(options, "value_range", None)
        serve(batch, _Locator(study), study.title, command, arguments.port, browser, value_range)


def _fill_in(here: Waiting) -> None:
    """Note in the table which images have been placed into class folders."""
    noted = here.batch.answers()
    pairs = enumerate(zip(noted, here.answers, strict=True))
    here.batch.store({position: answer for position, (old, answer) in pairs if answer and old != answer})


def _left(batch: Batch) -> str:
    missing = sum(not answer for answer in batch.answers())
    return f"{missing} of {len(batch)} images wait" if missing else "all images of the batch are answered"


class _Locator:
    """Finds the file of an image, also if it was moved or renamed. Threads may share it."""

    def __init__(self, study: Study) -> None:
        assert study.person is not None
        self.study, self.folder = study, listing(study).folder
        self.hashes = Hashes(Path(Layout(study).data(study.person)))
        self.moved: dict[str, Path] = {}
        self.lock = Lock()

    def __call__(self, image: Asked) -> Path | None:
        """Return where the file of an image is; None if it is gone."""
        with self.lock:
            return self._find(image)

    def _find(self, image: Asked) -> Path | None:
        path = self.moved.get(image.sha256, self.folder / unescaped(image.file))
        if not is_at(path, image, self.hashes):
            found = contents(listing(self.study), self.hashes)
            self.moved = {**{digest: place for digest, (place, _) in found.labeled.items()}, **found.unlabeled}
            return self.moved.get(image.sha256)
        return path
