"""Write down a study: its whole configuration, merged and checked, so that its folder explains itself."""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from lplgrad.datasets.prepared.arrays import open_dataset
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import write_text
from lplgrad.study.availability import changed_originals, check_prepared_datasets
from lplgrad.study.layout import Layout
from lplgrad.study.reading import read_study
from lplgrad.study.settings import Study, StudyFile, pool_problem
from lplgrad.study.validation import parse, parse_settings, read_yaml


def run(arguments: argparse.Namespace) -> None:
    """Read, check and write the study."""
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
    for dataset in layout.datasets:
        pool = len(open_dataset(Path(layout.data(dataset)), read_all=True).train.images)
        for budget in layout.study.run.budgets:
            problem = pool_problem(layout.study.datasets[dataset].budgets[budget], pool)
            if problem is not None:
                raise UserError(f"datasets.{dataset}.budgets.{budget}.{problem[0]}: {problem[1]}")
