"""Write down a study: its whole configuration, merged and checked, so that its folder explains itself."""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from lplgrad.datasets.prepared.arrays import open_dataset
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import write_text
from lplgrad.rounds.representation import representation_of
from lplgrad.study.availability import changed_originals, check_pool, check_prepared_datasets
from lplgrad.study.layout import Layout
from lplgrad.study.reading import read_study
from lplgrad.study.settings import Study, StudyFile
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
    layout = Layout(study, file.unavailable)
    for name in layout.datasets if arguments.prepared else ():
        data = open_dataset(Path(layout.data(name)), read_all=True)
        check_pool(study, name, len(data.splits["train"].inputs))
        if features := layout.features(name):
            representation_of(data, features)
    text = yaml.safe_dump(file.model_dump(by_alias=True), sort_keys=False, allow_unicode=True, width=120)
    if arguments.output is None:
        print(text, end="")
    else:
        write_text(arguments.output, text)
