"""The configuration: what is wrong with one is told in a line that names file and key."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from lplgrad import acquisition, backbones, datasets, recipes
from lplgrad.cli import main
from lplgrad.machine.errors import UserError
from lplgrad.study.reading import read_study
from lplgrad.study.settings import BackboneRow, RecipeRow, Strategy, Training
from lplgrad.study.validation import Row, parse, words
from tests.study.configurations import BASE, at, problem, write

LOW = "datasets.digits.budgets.low"
TRAINING = "datasets.digits.training"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("run.seed", [1], "run: unknown key 'seed' (did you mean 'seeds'?)"),
        ("stategies", {}, "unknown key 'stategies' (did you mean 'strategies'?)"),
        (f"{TRAINING}.epoch", 3, "datasets.digits.training: unknown key 'epoch' (did you mean 'epochs'?)"),
        ("strategies.lplgrad.nrom", "sum", "strategies.lplgrad: unknown key 'nrom' (did you mean 'norm'?)"),
        ("strategies.random.norm", "sum", "strategies.random: unknown key 'norm' (known: acquisition, recipe, title)"),
        ("datasets.digits.test_image", 5, "datasets.digits: unknown key 'test_image' (did you mean 'test_images'?)"),
        (
            "strategies.lplgrad.norm", "frobenius",
            "strategies.lplgrad.norm: input should be 'global' or 'sum', not 'frobenius'",
        ),
        (f"{TRAINING}.epochs", "60", f"{TRAINING}.epochs: input should be a valid integer, not '60'"),
        (f"{TRAINING}.epochs", 60.0, f"{TRAINING}.epochs: input should be a valid integer, not 60.0"),
        (f"{TRAINING}.epochs", True, f"{TRAINING}.epochs: input should be a valid integer, not True"),
        (f"{TRAINING}.learning_rate", "fast", "learning_rate: input should be a valid number, not 'fast'"),
        (f"{TRAINING}.learning_rate", 0, "learning_rate: input should be greater than 0, not 0"),
        (f"{TRAINING}.learning_rate", float("nan"), "learning_rate: input should be"),
        (f"{TRAINING}.momentum", float("inf"), "momentum: input should be"),
        (f"{TRAINING}.batch_size", 0, "batch_size: input should be greater than or equal to 1, not 0"),
        (f"{TRAINING}.milestones", [60], "milestones [60] must rise and lie before the last epoch (epochs: 60"),
        (f"{TRAINING}.milestones", [40, 20], "milestones [40, 20] must rise"),
        (f"{TRAINING}", None, "datasets.digits.training: input should be a valid dictionary"),
        ("datasets.digits.normalization", {"mean": [0.5], "std": [0.2, 0.2]}, "one value per channel each"),
        ("datasets.digits.normalization", {"mean": [0.5]}, "datasets.digits.normalization.std: is missing"),
        ("recipes.plain.margin", 2, "recipes.plain: unknown key 'margin' (known: init, trains)"),
        ("recipes.joint.init", "cold", "recipes.joint.init: input should be 'warm' or 'fresh', not 'cold'"),
        ("strategies.random.recipe", "plian", "strategies.random.recipe: unknown recipe 'plian' (did you mean 'plain'"),
        (
            "strategies.random.acquisition", "randon",
            "strategies.random.acquisition: unknown acquisition 'randon' (did you mean 'random'?)",
        ),
        (
            "strategies.random.acquisition", "predicted_loss",
            "strategies.random: on data set 'digits': acquisition 'predicted_loss' needs predicted_loss, which recipe "
            "'plain' (trains: plain) does not offer; with trains: joint it does",
        ),
        ("datasets.digits.source", "digit", "datasets.digits.source: unknown source 'digit' (did you mean 'digits'?)"),
        (
            "datasets.digits.backbone.name", "resne18",
            "backbone.name: unknown backbone 'resne18' (did you mean 'resnet18'?)",
        ),
        (
            "datasets.digits.backbone", {"name": "resnet18", "widht": 3},
            "datasets.digits.backbone: unknown key 'widht' (did you mean 'width'?)",
        ),
        ("datasets.digits.backbone", {"width": 3}, "datasets.digits.backbone.name: is missing"),
        (
            "datasets.digits.backbone", {"name": "resnet18", "dropout": 1},
            "datasets.digits.backbone.dropout: input should be less than 1, not 1",
        ),
        (
            "datasets.digits.model", {"width": 16},
            "datasets.digits.model: replaced by backbone: {name: resnet18, width: 16}",
        ),
        (
            "datasets.digits.model", {"name": "small_resnet"},
            "datasets.digits.model: replaced by backbone: {name: small_resnet}",
        ),
        ("recipes.plain.trains", "jiont", "recipes.plain.trains: unknown recipe 'jiont' (did you mean 'joint'?)"),
        ("recipes.plain", {"trains": None}, "recipes.plain.trains: input should be a valid string, not None"),
        ("recipes.plain.auxiliary", False, "recipes.plain.auxiliary: replaced by trains: plain"),
        ("recipes.joint.auxiliary", True, "recipes.joint.auxiliary: replaced by trains: joint"),
        ("recipes.joint.lambda", -1, "recipes.joint.lambda: input should be greater than or equal to 0, not -1"),
        ("recipes.joint.detach_after", 1.5, "recipes.joint.detach_after: input should be less than or equal to 1, not"),
        (f"{TRAINING}.optimizer", "adam", "optimizer: input should be 'sgd' or 'adamw', not 'adam'"),
        (
            TRAINING, {"optimizer": "adamw", "momentum": 0.5},
            f"{TRAINING}: momentum has no effect with optimizer: adamw; remove it",
        ),
        (
            TRAINING, {"optimizer": "adamw", "nesterov": True},
            f"{TRAINING}: nesterov has no effect with optimizer: adamw; remove it",
        ),
        (TRAINING, {"nesterov": True, "momentum": 0}, f"{TRAINING}: nesterov needs a momentum above 0"),
        (
            TRAINING, {"schedule": "cosine", "milestones": [30]},
            f"{TRAINING}: milestones has no effect with schedule: cosine; remove it",
        ),
        (
            TRAINING, {"schedule": "constant", "milestones": [], "decay": 0.5},
            f"{TRAINING}: decay has no effect with schedule: constant; remove it",
        ),
        (TRAINING, {"warmup_epochs": 60}, f"{TRAINING}: warmup_epochs: 60 must be fewer than epochs: 60"),
        (TRAINING, {"warmup_epochs": -1}, "warmup_epochs: input should be greater than or equal to 0, not -1"),
        ("run.datasets", ["digts"], "run.datasets: 'digts' is not defined under datasets (did you mean 'digits'?)"),
        ("run.strategies", ["entropy"], "run.strategies: 'entropy' is not defined under strategies (known: lplg"),
        ("run.budgets", ["high"], "run.budgets: data set 'digits' has no budget 'high' (known: low)"),
        ("run.seeds", [1, 1], "run.seeds: 1 is listed twice"),
        ("highlight", ["randon"], "highlight: 'randon' is not defined under strategies (did you mean 'random'?)"),
        ("highlight", ["random", "random"], "highlight: random is listed twice"),
        ("highlight", "random", "highlight: input should be a valid list"),
        ("run.seeds", [-1], "run.seeds.0: input should be greater than or equal to 0, not -1"),
        ("run.seeds", [], "run.seeds: List should have at least 1 item"),
        ("run.strategies", [], "run.strategies: List should have at least 1 item"),
        ("run.seeds", 3, "run.seeds: input should be a valid list"),
        (f"{LOW}.query_size", 0, f"{LOW}.query_size: input should be greater than or equal to 1, not 0"),
        (f"{LOW}.query_size", -20, "query_size: input should be greater than or equal to 1, not -20"),
        (
            f"{LOW}.query_size", 30,
            f"{LOW}: labels: 100 does not fit: round 1 has 30, and each further round 30 more (query_size); "
            "the nearest that fit are 90 and 120",
        ),
        (f"{LOW}.start", {"size": 15}, f"{LOW}: labels: 100 does not fit: round 1 has 15, and each further round 20"),
        (f"{LOW}.start", {"size": 120}, "round 20 more (query_size); the nearest that fit are 120 and 140"),
        (f"{LOW}.start", {"draw": "even"}, f"{LOW}.start.draw: input should be 'uniform' or 'stratified', not 'even'"),
        (f"{LOW}.candidates", 10, f"{LOW}: candidates: 10 is smaller than query_size: 20"),
        (f"{LOW}.candidates", "every", f"{LOW}.candidates"),
        (f"{LOW}.candidates", 1121, f"{LOW}.candidates: 1121 is more than the 1120 examples that the last query finds"),
        (f"{LOW}.labels", 1220, f"{LOW}.labels: 1220 is more than the 1200 examples of the training pool"),
        ("strategies.start", {"recipe": "plain", "acquisition": "random"}, "'start' cannot be a name"),
        ("strategies.../up", {}, "cannot be a name"),
        ("study", "a/b", "study: 'a/b' cannot be a name: use letters, digits"),
        ("study", "$(reboot)", "study: '$(reboot)' cannot be a name"),
        ("study", 5, "study: input should be a valid string, not 5"),
        ("title", "two\nlines", "title: String should match pattern"),
        ("title", "   ", "title: is blank; give the study a title"),
        ("strategies.random.title", "\u2003", "strategies.random.title: is blank"),
        (
            "strategies.random.title", "LPLGRAD",
            "strategies.random.title: figures and tables would call it 'LPLGRAD', and strategies.lplgrad 'lplgrad'",
        ),
        ("compute.precision", "float16", "compute.precision: input should be 'float32', 'tf32' or 'bfloat16', not"),
        ("compute.threads", 0, "compute.threads: input should be greater than or equal to 1, not 0"),
    ],
)  # fmt: skip
def test_every_mistake_names_file_and_key(base: Path, tmp_path: Path, key: str, value: Any, message: str) -> None:
    values = {"strategies": {"../up": value}} if ".../" in key else at(key, value)
    told = problem(base, write(tmp_path, "over.yaml", values))
    assert told.startswith(f"{tmp_path / 'over.yaml'}: ")
    assert message.lower() in told.lower()


def test_what_is_prepared_is_what_the_study_means_and_holds_its_budgets(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"source": "image_folder", "path": "mine", "budgets": {"small": {"query_size": 10, "labels": 50}}}
    mine = write(
        tmp_path, "mine.yaml", {"run": {"datasets": ["mine"], "budgets": ["small"]}, "datasets": {"mine": row}}
    )
    settings = read_study([base, mine]).datasets["mine"].checked_options.model_dump()
    manifest = tmp_path / "data/mine/dataset.json"
    manifest.parent.mkdir(parents=True)

    def told(settings: dict[str, Any], pool: int) -> str:
        manifest.write_text(json.dumps({"settings": settings, "splits": {"train": {"inputs": [pool, 8, 8, 3]}}}))
        main(["study", str(base), str(mine)])
        return capsys.readouterr().err

    assert told({"source": "image_folder", **settings}, 50) == ""
    earlier = {key: value for key, value in settings.items() if value is not None}
    assert told({"source": "image_folder", **earlier}, 50) == "", "a key that an earlier version did not write"
    assert told({"source": "image_folder", **settings}, 49) == (
        "lplgrad study: error: datasets.mine.budgets.small.labels: 50 is more than the 49 examples of the training "
        "pool (data/mine)\n"
    )
    assert "data/mine was prepared with another path ('yours', not 'mine'); give this one" in told(
        {"source": "image_folder", **settings, "path": "yours"}, 50
    )


def test_paper_and_demo_are_valid() -> None:
    home = Path(__file__).parents[2]
    assert read_study([home / "config.yaml"]).study == "paper"
    for overlay in home.glob("studies/*.yaml"):
        read_study([home / "config.yaml", overlay])
    paper, gpu = (read_study([home / "config.yaml", *more]) for more in ([], [home / "studies" / "paper_gpu.yaml"]))
    assert {name for name, value in gpu if value != getattr(paper, name)} == {"study", "title", "compute"}
    demo = read_study([home / "config.yaml", home / "demo.yaml"])
    assert len(demo.run.strategies) == 6
    assert len(demo.run.seeds) >= 3
    assert demo.datasets["digits"].budgets["small"].rounds >= 6


def test_everything_is_checked_without_torch() -> None:
    """The Snakefile checks the configuration, lays the study out and digests the code; it never imports torch."""
    import subprocess
    import sys

    script = (
        "import sys; from lplgrad import acquisition, backbones, datasets, recipes;"
        "from lplgrad.study import layout, reading;"
        "from lplgrad.machine import digest, leases;"
        "from lplgrad.report import captions;"
        "[[one.registry.load(name) for name in one.registry.names()]"
        " for one in (acquisition, backbones, datasets, recipes)];"
        "reading.read_study(['config.yaml', 'demo.yaml']); leases.visible_devices();"
        "heavy = {'torch', 'torchvision', 'pandas', 'sklearn', 'matplotlib', 'snakemake'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


def test_registries_list_what_is_there() -> None:
    assert {"coreset", "entropy", "gradient_norm", "predicted_loss", "random"} <= set(acquisition.registry.names())
    assert {"resnet18", "small_resnet"} <= set(backbones.registry.names())
    assert {"plain", "joint"} <= set(recipes.registry.names())
    assert "digits" in datasets.registry.names()
    for registry in (acquisition.registry, backbones.registry, datasets.registry, recipes.registry):
        assert registry.names() == sorted(registry.names())
        assert not [name for name in registry.names() if name.startswith("_")]


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer": "adamw", "schedule": "cosine", "milestones": [], "weight_decay": 0.05, "warmup_epochs": 5},
        {"schedule": "constant", "milestones": []},
        {"optimizer": "adamw", "momentum": 0.9},  # the default, as study.yaml writes it
        {"schedule": "constant"},
    ],
)
def test_keys_without_effect_may_have_their_defaults(values: dict[str, Any]) -> None:
    training = Training.model_validate(values)
    assert Training.model_validate(training.model_dump()) == training


class TestRows:
    """A row writes out all options of its entry."""

    def test_defaults_are_written_out(self) -> None:
        row = BackboneRow(name="resnet18")
        assert row.model_dump() == {"name": "resnet18", "stem": "cifar", "width": None, "dropout": 0.0}
        recipe = RecipeRow(trains="joint")
        assert recipe.model_dump(by_alias=True) == {
            "trains": "joint", "init": "warm", "lambda": 1.0, "margin": 1.0, "detach_after": 0.6,
            "auxiliary_schedule": "stepped",
        }  # fmt: skip
        strategy = Strategy(recipe="joint", acquisition="gradient_norm")
        assert strategy.options == {"scheme": "entropy", "norm": "global", "fallback": False}

    @pytest.mark.parametrize(
        ("kind", "bare", "explicit"),
        [
            (BackboneRow, {"name": "resnet18"}, {"stem": "cifar", "width": None}),
            (RecipeRow, {"trains": "joint"}, {"lambda": 1.0, "init": "warm"}),
            (RecipeRow, {"trains": "joint"}, {"lambda": 1, "margin": 1}),
            (Strategy, {"recipe": "plain", "acquisition": "gradient_norm"}, {"norm": "global"}),
        ],
    )
    def test_an_explicit_default_differs_from_none_in_nothing(
        self, kind: type[Row], bare: dict[str, Any], explicit: dict[str, Any]
    ) -> None:
        one, other = kind.model_validate(bare), kind.model_validate({**bare, **explicit})
        assert one == other
        assert words(one.model_dump(by_alias=True)) == words(other.model_dump(by_alias=True))

    def test_they_come_back(self) -> None:
        for row in (BackboneRow(name="small_resnet"), RecipeRow(trains="joint"), RecipeRow(trains="plain")):
            assert type(row).model_validate(row.model_dump(by_alias=True)) == row

    def test_a_label_names_what_is_no_default(self) -> None:
        assert BackboneRow(name="small_resnet").label == "small_resnet"
        row = BackboneRow.model_validate({"name": "resnet18", "width": 16, "stem": "cifar"})
        assert row.label == "resnet18 (width: 16)"
        assert RecipeRow.model_validate({"trains": "joint", "lambda": 2.0}).label == "joint (lambda: 2.0)"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Mine", "Mine"),
        ("Mine", "mine"),
        ("My  own", " My own"),
        ("Café", "Cafe\u0301"),
        (None, "DIGITS"),
        ("Other", None),
    ],
)
def test_data_sets_that_run_need_titles_that_differ(tmp_path: Path, one: str | None, other: str | None) -> None:
    values = copy.deepcopy(BASE)
    row = values["datasets"]["digits"]
    values["datasets"] = {"digits": {**row, "title": one}, "other": {**row, "title": other}}
    assert read_study([write(tmp_path, "base.yaml", values)]).run.datasets == ["digits"], "the other is not run"
    values["run"]["datasets"] = ["digits", "other"]
    told = problem(write(tmp_path, "base.yaml", values))
    assert "datasets.other" in told
    assert "datasets.digits" in told
    assert "titles that differ by more than upper case and white space" in told


@pytest.mark.parametrize(("value", "words"), [("all", "not 'all'"), (0, "not 0"), (1.5, "not 1.5")])
def test_a_value_of_several_types_names_all_of_them(value: object, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(RecipeRow, {"trains": "longer", "examples": value}, "here")
    assert str(caught.value).startswith("here: examples: input should be ")
    assert "or 'pool', " in str(caught.value)
    assert str(caught.value).endswith(words)


@pytest.mark.parametrize(
    ("acquisition", "options", "words"),
    [
        ("probcover", {"radius": 0.5, "purity": 0.9}, "purity has no effect with a radius; remove it, or set purity"),
        ("probcover", {"radius": 0.5, "clusters": 3}, "with a radius; remove it, or set clusters: null"),
        ("probcover", {"radius": 3}, "radius: input should be less than or equal to 2"),
        ("bald", {"passes": 5}, "passes has no effect with samples: members"),
        ("bait", {"memory_gb": 2}, "memory_gb has no effect with form: binary"),
        ("gp_surrogate", {"random_features": 9}, "random_features has no effect with kernel: linear"),
        ("last_layer", {"ridge": 2}, "ridge has no effect with proxy: entropy_gradient"),
    ],
)  # fmt: skip
def test_options_without_effect_are_refused(acquisition: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(Strategy, {"recipe": "plain", "acquisition": acquisition, **options}, "here")
    assert words in str(caught.value)
