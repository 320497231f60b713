"""The digest of a job's code: an edit changes it for the jobs that the edit can affect, and for no other job."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from lplgrad.machine import digest as module
from lplgrad.machine.digest import code_digest

# As workflow/rules makes them: what trains a model, and what scores with it
LEARNER = ("recipes.joint.RECIPE", "backbones.resnet18.BACKBONE")
JOBS: dict[str, tuple[str, ...]] = {
    "prepare": ("datasets.prepared.prepare.run", "datasets.digits.SOURCE"),
    "start": ("rounds.start.run",),
    "chosen start": ("rounds.start.run", "acquisition.max_herding.ACQUISITION", "modalities.vector.MODALITY"),
    "train": ("rounds.train.run", *LEARNER),
    "plain": ("rounds.train.run", "recipes.plain.RECIPE", "backbones.small_resnet.BACKBONE"),
    "entropy": ("rounds.query.run", "acquisition.entropy.ACQUISITION", *LEARNER),
    "coreset": ("rounds.query.run", "acquisition.coreset.ACQUISITION", *LEARNER),
    "norms": ("rounds.query.run", "acquisition.gradient_norm.ACQUISITION", *LEARNER),
    "herding": ("rounds.query.run", "acquisition.max_herding.ACQUISITION", *LEARNER),
    "observe": ("rounds.observe.run", *LEARNER),
    "figure": ("report.figures.run", "report.trial_figures.chosen"),
    "table": ("report.tables.run", "paper.tables.datasets", "backbones.resnet18.BACKBONE"),
    "diagnostics": ("report.diagnostics.run",),
    "claims": ("paper.claims.run",),
    "ablation": ("report.tables.run", "paper.ablation.ablation"),
}
QUERIES = {"entropy", "coreset", "norms", "herding"}


def digests() -> dict[str, str]:
    unused = {"gradient_norms", "rounds.side", "rounds.representation"}
    without: dict[str, set[str]] = {"entropy": unused, "coreset": unused, "norms": unused - {"gradient_norms"}}
    without |= {"herding": unused - {"rounds.representation"}, "start": {"rounds.chosen_start"}}
    return {job: code_digest(*roots, without=without.get(job, ())) for job, roots in JOBS.items()}


@cache
def unedited() -> dict[str, str]:
    """The digests of the package as it is."""
    forget()
    return digests()


def forget() -> None:
    module._read.cache_clear()
    module._definition.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package to edit."""
    unedited()
    copy = tmp_path / "lplgrad"
    shutil.copytree(module.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "PACKAGE", copy)
    forget()
    yield copy
    forget()


def changed(package: Path, edits: dict[str, Callable[[str], str]]) -> set[str]:
    """The jobs whose digest some edits of files change."""
    before = unedited()
    for file, edit in edits.items():
        text = (package / file).read_text()
        assert edit(text) != text, f"the edit of {file} changes nothing"
        (package / file).write_text(edit(text))
    forget()
    after = digests()
    return {job for job in JOBS if after[job] != before[job]}


def replaced(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize(
    ("file", "old", "new", "jobs"),
    [
        ("rounds/loop.py", "range(steps)", "range(steps + 1)", {"train", "plain"}),
        # A recipe and a backbone concern those that train with them. Queries load the learner, with all its methods.
        ("recipes/joint.py", "pairs == 0", "pairs == 1", {"train", *QUERIES, "observe"}),
        ("recipes/plain.py", "losses.mean()", "losses.sum()", {"plain"}),
        ("backbones/small_resnet.py", "(1, 1, 1)", "(1, 2, 1)", {"plain"}),
        ("backbones/resnet18.py", "width=64", "width=65", {"train", *QUERIES, "observe", "table"}),
        # The table of data sets counts the parameters of the networks.
        (
            "backbones/_residual.py",
            "nn.BatchNorm2d(",
            "nn.BatchNorm2d(1 + ",
            {"train", "plain", *QUERIES, "observe", "table"},
        ),
        ("rounds/pool.py", "TEST_EXAMPLES = 1000", "TEST_EXAMPLES = 900", {*QUERIES, "diagnostics"}),
        ("acquisition/coreset.py", "BLOCK = 256", "BLOCK = 128", {"coreset"}),
        # Every query writes entropies next to its scores.
        ("acquisition/entropy.py", "others.log1p()", "others.log()", {*QUERIES, "observe"}),
        ("datasets/digits.py", "255 / 16", "255 / 15", {"prepare"}),
        # A format that training does not read.
        ("rounds/files.py", "{score!s},{loss:.6g}", "{score!s},{loss:.7g}", QUERIES),
        # A constant of the engine of gradient norms.
        ("gradient_norms/layers.py", "sqrt()", "sqrt().mul(1)", {"norms", "observe"}),
        ("report/trial_figures.py", "COLUMNS = 10", "COLUMNS = 9", {"figure"}),
        # Small functions that settings lead to: the size of the subset, titles, pairs of strategies, a version.
        (
            "rounds/pool.py",
            'unlabeled if size == "all"',
            'unlabeled[1:] if size == "all"',
            {*QUERIES, "diagnostics", "figure"},
        ),
        (
            "study/titles.py",
            "title.split())",
            "title.split()[:1])",
            {"figure", "table", "diagnostics", "ablation"},
        ),
        ("study/pairs.py", "extends and query_alike", "extends", {"ablation"}),
        ("rounds/files.py", '["versions"]["torch"]', '["versions"]["lplgrad"]', {"train", "plain"}),
        # Words: a help text, a message, a check of a setting. The condition of a message is no word.
        ("datasets/prepared/writing.py", "two classes or more, each", "at least two classes, each", set()),
        ("machine/files.py", "not JSON, or cut off", "no JSON", set()),
        ("rounds/query.py", "the target accuracy is reached", "target accuracy reached", set()),
        ("rounds/pool.py", "if size > examples:", "if size >= examples:", {"start", "chosen start"}),
        # A random draw reads no representation.
        ("rounds/representation.py", "if modality.embedded", "if not modality.embedded", {"herding", "chosen start"}),
        (
            "modalities/_floats.py",
            "inputs.reshape(len(inputs), -1)",
            "inputs.reshape(len(inputs), 1)",
            {"chosen start"},
        ),
        ("cli.py", "seed of the trial", "the trial's seed", set()),
        ("machine/errors.py", "class UserError(Exception)", "class UserError(Exception, object)", set()),
        ("study/settings.py", "has no effect", "changes nothing", set()),
    ],
)
def test_an_edit_reaches_the_jobs_that_it_can_affect(
    package: Path, file: str, old: str, new: str, jobs: set[str]
) -> None:
    assert changed(package, {file: replaced(old, new)}) == jobs


def test_a_class_of_a_registry_can_be_renamed(package: Path) -> None:
    """The jobs that use it rerun, and no training is among them."""
    rename = replaced("Options", "DigitsOptions")
    assert changed(package, {"datasets/digits.py": rename}) == {"prepare"}
    users = ["datasets/__init__.py", *(f"datasets/{file.name}" for file in (package / "datasets").glob("[a-z]*.py"))]
    edits = {name: replaced("Source", "ImageSource") for name in users if "Source" in (package / name).read_text()}
    assert changed(package, edits) == {"prepare"}


@pytest.mark.parametrize(
    "file", ["backbones/_residual.py", "rounds/files.py", "acquisition/__init__.py", "report/style.py"]
)
def test_a_function_that_nothing_uses_changes_nothing(package: Path, file: str) -> None:
    assert changed(package, {file: lambda text: text + "\n\ndef more() -> int:\n    return 1\n"}) == set()


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: "# a comment\n" + text,
        lambda text: text.replace('"""', '"""In other words: ', 1),
        lambda text: text.replace("\n\n\n", "\n\n\n\n", 1),
        lambda text: text.replace("    pairs = len(", "    # why\n    pairs = len("),
        lambda text: text.replace("margin: float)", "margin: float | int)"),
    ],
)
def test_words_and_types_change_nothing(package: Path, edit: Callable[[str], str]) -> None:
    assert changed(package, {"recipes/joint.py": edit}) == set()


def test_a_new_acquisition_function_changes_nothing(package: Path) -> None:
    before = digests()
    shutil.copy(package / "acquisition" / "entropy.py", package / "acquisition" / "another.py")
    forget()
    assert digests() == before


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a small package and return the digest of ``job.run``."""

    def write(**files: str) -> str:
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        forget()
        return code_digest("job.run")

    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    return write


@pytest.mark.parametrize(
    "job",
    [
        "from lplgrad.part import one\ndef run(): return one()",
        "from lplgrad.part import one as other\ndef run(): return other()",
        "from lplgrad import part\ndef run(): return part.one()",
        "def run():\n    from lplgrad.part import one\n    return one()",
        "from lplgrad.part import one\nTABLE = {'x': one}\ndef run(): return TABLE['x']()",
        "from lplgrad.part import one\nclass C:\n    def __call__(self): return one()\ndef run(): return C()()",
        "from lplgrad import part\ndef use(m): return m.one()\ndef run(): return use(part)",
        "from lplgrad.part import CONSTANT\ndef run(): return CONSTANT",
    ],
)
def test_every_way_to_use_a_definition_counts(written: Callable[..., str], job: str) -> None:
    part = "CONSTANT = [1]\ndef deep(): return {}\ndef one(): return deep() + CONSTANT[0]\n"
    before = written(job=job, part=part.format(1))
    assert written(part=part.format(2)) != before or "CONSTANT" in job
    assert written(part=part.format(1).replace("[1]", "[2]")) != before


def test_statements_with_an_effect_count(written: Callable[..., str]) -> None:
    job = "from lplgrad.part import table\ndef run(): return table"
    before = written(job=job, part="table = {}\n")
    effects = [
        "table = {}\ntable['x'] = 1\n",
        "table = {}\ntable.update(x=1)\n",
        "table = {}\nfor n in 'x': table[n] = 1\n",
    ]
    digests = [written(part=effect) for effect in effects]
    assert len({before, *digests}) == 4


def test_what_a_decorator_registers_counts(written: Callable[..., str]) -> None:
    part = "TABLE = dict()\ndef register(f): TABLE[1] = f\n@register\ndef one(): return 1\n"
    before = written(job="from lplgrad.part import TABLE\ndef run(): return TABLE[1]()", part=part)
    assert written(part=part.replace("return 1", "return 2")) != before


def test_what_an_outside_name_stands_for_counts(written: Callable[..., str]) -> None:
    before = written(job="from math import exp as f\ndef run(): return f(1)")
    assert written(job="from math import log as f\ndef run(): return f(1)") != before


def test_imports_for_types_do_not_count(written: Callable[..., str]) -> None:
    job = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lplgrad.part import C\ndef run(c: C): return c"
    before = written(job=job, part="class C: pass")
    assert written(part="class C: x = 1") == before


def test_modules_can_be_left_out() -> None:
    roots = ("rounds.query.run", "acquisition.entropy.ACQUISITION")
    assert code_digest(*roots, without={"gradient_norms"}) != code_digest(*roots)


def test_lazy_imports_are_followed_and_short_ones_refused(package: Path) -> None:
    lazily = 'if TYPE_CHECKING:\n    pass\nelse:\n    vae = lazy("lplgrad.acquisition._vae")\n'
    use = "\n\ndef used() -> object:\n    return vae.GROUPS\n\n\nACQUISITION = used()\n"
    (package / "acquisition" / "lazily.py").write_text(lazily + use)
    forget()
    before = code_digest("acquisition.lazily.ACQUISITION")
    vae = package / "acquisition" / "_vae.py"
    vae.write_text(vae.read_text().replace("GROUPS = 8", "GROUPS = 4"))
    forget()
    assert code_digest("acquisition.lazily.ACQUISITION") != before
    for line in ("from ._vae import GROUPS", "import lplgrad.acquisition._vae"):
        (package / "acquisition" / "lazily.py").write_text(f"{line}\nACQUISITION = GROUPS\n")
        forget()
        with pytest.raises(ValueError, match="line 1: write"):
            code_digest("acquisition.lazily.ACQUISITION")
