"""Decide which data sets of a study are available, and whether a prepared one is still what the study means."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from lplgrad import datasets
from lplgrad.datasets.prepared.originals import ORIGINALS, change
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json
from lplgrad.study.budgets import pool_problem
from lplgrad.study.layout import Layout
from lplgrad.study.settings import Study
from lplgrad.study.validation import Row, input_files

FAILED_DOWNLOAD = "failed_download.txt"  # in a data set's folder: why it could not be downloaded


def check_prepared_datasets(study: Study) -> None:
    """Raise UserError if a folder holds a data set of another source or other options, or too small for a budget."""
    for name in study.run.datasets:
        manifest, row = _manifest(study, name), study.datasets[name]
        if not manifest.exists():
            continue
        described = read_json(manifest)
        if found := described.get("settings"):
            wanted = {"source": row.source, **row.checked_options.model_dump()}
            wanted |= {"oracle": row.oracle} if row.oracle == "person" else {}
            changed = sorted(key for key in wanted | found if wanted.get(key) != found.get(key))
            if row.oracle == "person":  # content identifies its images, wherever they are
                changed = [key for key in changed if key not in ("path", "skip_unreadable")]
            if changed and "person" in (row.oracle, found.get("oracle")):
                raise UserError(
                    f"datasets.{name}: {manifest.parent} was prepared with another {changed[0]} "
                    f"({found.get(changed[0])!r}, not {wanted.get(changed[0])!r}), and the rounds that a person "
                    "labelled depend on it; give this one another name. To start over, delete that folder and the "
                    "results of the study; the labels stay"
                )
            if changed:
                raise UserError(
                    f"datasets.{name}: {manifest.parent} was prepared with another {changed[0]} "
                    f"({found.get(changed[0])!r}, not {wanted.get(changed[0])!r}); give this one another name or "
                    "another data_dir, or delete that folder"
                )
        try:
            pool = int(described["splits"]["train"]["inputs"][0])
        except (KeyError, TypeError, ValueError, IndexError):
            continue  # whoever opens the arrays reports what is wrong
        check_pool(study, name, pool, f" ({manifest.parent})")


def check_input_files(study: Study) -> None:
    """Raise UserError if a file that an option names does not exist."""
    rows: list[tuple[str, Row]] = [
        (f"datasets.{name}.backbone", study.datasets[name].backbone) for name in study.run.datasets
    ]
    rows += [
        (f"datasets.{name}.budgets.{budget}.start", study.datasets[name].budgets[budget].start)
        for name, budget in product(study.run.datasets, study.run.budgets)
    ]
    rows += [(f"datasets.{name}", study.datasets[name]) for name in study.run.datasets]
    for name in study.run.strategies:
        strategy = study.strategies[name]
        rows += [(f"strategies.{name}", strategy), (f"recipes.{strategy.recipe}", study.recipes[strategy.recipe])]
    for where, row in rows:
        for path in [*input_files(row), *input_files(row.checked_options)]:
            if not Path(path).is_file():
                raise UserError(f"{where}: no file {path}; the path is relative to the folder in which Snakemake runs")


def check_pool(study: Study, name: str, pool: int, where: str = "") -> None:
    """Raise UserError if a budget of a data set does not fit a training pool of ``pool`` images."""
    # A person labels as long as there are images.
    for budget in study.run.budgets if study.datasets[name].oracle == "simulated" else ():
        if problem := pool_problem(study.datasets[name].budgets[budget], pool):
            raise UserError(f"datasets.{name}.budgets.{budget}.{problem[0]}: {problem[1]}{where}")


def changed_originals(study: Study) -> dict[str, str]:
    """Say what to do about data sets whose original files have changed since they were prepared, by name."""
    problems = {}
    for name in study.run.datasets:
        manifest, row = _manifest(study, name), study.datasets[name]
        folder = manifest.parent
        if row.oracle == "person":
            continue  # images come, go and move while a person labels
        originals = datasets.registry.load(row.source).originals(row.checked_options, _downloads(study))
        if originals is None or not manifest.exists() or not (folder / ORIGINALS).exists():
            continue
        try:
            problem = change(folder / ORIGINALS, originals)
        except OSError as error:
            raise UserError(f"datasets.{name}: {error.filename}: {error.strerror}") from None
        if problem:
            problems[name] = (
                f"datasets.{name}: {originals} has changed since {folder} was prepared ({problem}); to go on with the "
                f"images that were prepared, delete {folder / ORIGINALS}; to use the images as they are now, run "
                f"Snakemake with --forcerun {manifest}, which runs all rounds of the data set again"
            )
    return problems


def lost_datasets(study: Study) -> dict[str, str]:
    """Name the data sets that have results but are no longer prepared, each with a message for the user."""
    root = Path(Layout(study).root)
    return {
        name: f"data set {name}: {_manifest(study, name)} is missing; if all of its rounds are finished, they stay as "
        f"they are; to prepare it and run them again, give Snakemake --forcerun {_manifest(study, name)}"
        for name in study.run.datasets
        if not _manifest(study, name).exists() and any((root / budget / name).exists() for budget in study.run.budgets)
    }


def absent_datasets(study: Study) -> list[str]:
    """Name the data sets that are not prepared and have no results: the study loses nothing without them."""
    lost = lost_datasets(study)
    return [name for name in study.run.datasets if not _manifest(study, name).exists() and name not in lost]


def unavailable_datasets(study: Study) -> dict[str, str]:
    """Name the absent data sets that cannot be prepared, with the reason.

    A download that failed is not tried again until the user deletes the file that says so: an address that answers
    with the wrong content would hold up all other tables on every run.
    """

    def reason(name: str) -> str | None:
        failed = _manifest(study, name).with_name(FAILED_DOWNLOAD)
        if failed.exists():
            return failed.read_text(encoding="utf-8", errors="replace").strip()
        row = study.datasets[name]
        return datasets.registry.load(row.source).unavailable(row.checked_options, _downloads(study))

    absent = absent_datasets(study)
    with ThreadPoolExecutor() as pool:
        return {name: why for name, why in zip(absent, pool.map(reason, absent), strict=True) if why is not None}


def preparation_warnings(study: Study, name: str) -> list[str]:
    """Read the warnings of ``prepare`` from its log, if this study's workflow prepared the data set."""
    try:
        log = Path(Layout(study).preparation_log(name)).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [f"data set {name}: {line}" for line in log.splitlines() if line.startswith("warning: ")]


def _manifest(study: Study, name: str) -> Path:
    return Path(study.data_dir) / name / "dataset.json"


def _downloads(study: Study) -> Path:
    return Path(study.data_dir) / "downloads"
