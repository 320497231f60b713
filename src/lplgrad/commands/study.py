"""Write down a study: its whole configuration, merged and checked, so that its folder explains itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lplgrad.study import Layout

EXAMPLE = "lplgrad study config.yaml demo.yaml --output results/demo/study.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument(
        "files", type=Path, nargs="*", metavar="FILE", help="configuration files, each merged over the ones before"
    )
    parser.add_argument("--settings", metavar="YAML", help="the merged configuration itself, instead of files")
    parser.add_argument(
        "--unavailable", default="{}", metavar="YAML", help="data sets that cannot be had, with the reason"
    )
    parser.add_argument("--prepared", action="store_true", help="check the budgets against the prepared data sets")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write it (default: standard output)")


def run(arguments: argparse.Namespace) -> None:
    """Read, check and write the study."""
    import yaml

    from lplgrad.commands.common import parse_settings
    from lplgrad.configuration import read_study
    from lplgrad.errors import UserError
    from lplgrad.files import write_text
    from lplgrad.settings import Study, StudyFile
    from lplgrad.study import Layout, changed_originals, check_prepared_datasets
    from lplgrad.validation import parse, read_yaml

    if (arguments.settings is None) == (not arguments.files):
        raise UserError("give either configuration files or --settings")
    study = read_study(arguments.files) if arguments.files else parse_settings(Study, arguments.settings)
    if arguments.files:
        check_prepared_datasets(study)
        for problem in changed_originals(study).values():
            raise UserError(problem)
    unavailable = read_yaml(arguments.unavailable, "--unavailable")
    file = parse(StudyFile, {"study": study, "unavailable": unavailable}, "--unavailable")
    if arguments.prepared:
        _check_pools(Layout(study, file.unavailable))
    text = yaml.safe_dump(file.model_dump(by_alias=True), sort_keys=False, allow_unicode=True, width=120)
    if arguments.output is None:
        print(text, end="")
    else:
        write_text(arguments.output, text)


def _check_pools(layout: Layout) -> None:
    """The arrays are what was prepared, and budgets fit pools whose size was not known before."""
    from lplgrad.arrays import open_dataset
    from lplgrad.errors import UserError
    from lplgrad.settings import pool_problem

    for dataset in layout.datasets:
        pool = len(open_dataset(Path(layout.data(dataset)), read_all=True).train.images)
        for budget in layout.study.run.budgets:
            problem = pool_problem(layout.study.datasets[dataset].budgets[budget], pool)
            if problem is not None:
                raise UserError(f"datasets.{dataset}.budgets.{budget}.{problem[0]}: {problem[1]}")
