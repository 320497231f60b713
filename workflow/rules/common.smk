# The study, read and checked, and functions for the rules.
import atexit
import hashlib
import inspect
import mimetypes
import os
import sys
from functools import cache
from itertools import product
from shlex import join, quote

from snakemake.cli import get_argument_parser
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

HOME = Path(workflow.basedir)
CONFIG = HOME / "config.yaml"
sys.path.insert(0, str(HOME / "src"))

from lplgrad import acquisition, backbones, datasets, modalities
from lplgrad.machine import digest, fork_server
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import file_digest as file_sha256
from lplgrad.machine.leases import visible_devices
from lplgrad.report import captions
from lplgrad.rounds.settings import learner_code
from lplgrad.study import availability
from lplgrad.study.layout import CHECKPOINT, Layout, Trial, one_of
from lplgrad.study.reading import check_reported, read_study
from lplgrad.study.validation import as_json, words

mimetypes.add_type("text/plain", ".yaml")  # which the report would otherwise warn of

# Snakemake tells a workflow too late what it is about to do.
REPORTS = any(word.partition("=")[0] == "--report" for word in sys.argv)
NO_JOBS = REPORTS or "--unlock" in sys.argv
ARGUMENTS, _ = get_argument_parser().parse_known_args(sys.argv[1:])
FORCED = {*ARGUMENTS.forcerun, *(ARGUMENTS.targets if ARGUMENTS.force else [])}
# Snakemake compares file names in this form.
FORCED |= {os.path.relpath(name) for name in FORCED if not os.path.isabs(name)}
# Snakemake merges the same files into `config`. Here each is checked on its own first.
FILES = [] if workflow.config_settings.replace_workflow_config else [CONFIG]
try:
    STUDY = read_study([*FILES, *workflow.overwrite_configfiles], workflow.config_settings.config)
    availability.check_prepared_datasets(STUDY)
    availability.check_input_files(STUDY)
    # On a cluster's node the files are not listed again.
    changed = availability.changed_originals(STUDY) if workflow.is_main_process else {}
    kept = [name for name in changed if not {"prepare", f"{STUDY.data_dir}/{name}/dataset.json"} & FORCED]
    if kept and not (ARGUMENTS.forceall or NO_JOBS):
        raise UserError("; ".join(changed[name] for name in kept))
    if REPORTS:
        check_reported(STUDY)
except UserError as error:
    raise WorkflowError(str(error)) from None
LOST = availability.lost_datasets(STUDY)
UNAVAILABLE = availability.unavailable_datasets(STUDY)
GAPS = [f"data set {name} is left out: {reason}" for name, reason in UNAVAILABLE.items()]


if len(UNAVAILABLE) == len(STUDY.run.datasets):
    raise WorkflowError("none of the study's data sets can be had: " + "; ".join(GAPS))
LAYOUT = Layout(STUDY, UNAVAILABLE)
PERSON, WAITING = STUDY.person, None  # the data set that a person labels, and the images that wait
TOLD = []  # what the console says of them
if PERSON and workflow.is_main_process and not NO_JOBS:
    from lplgrad.labeling import waiting  # imports Pillow

    try:
        WAITING = waiting.waiting(STUDY, LAYOUT)
    except UserError as error:
        raise WorkflowError(str(error)) from None
    if WAITING and WAITING.ready:
        LAYOUT = LAYOUT.with_round(WAITING.labels)
    else:
        TOLD = waiting.message(WAITING, STUDY, LAYOUT, workflow.overwrite_configfiles)
    # At the very end: Snakemake's last words may be that nothing is to be done.
    atexit.register(lambda: print(*TOLD, sep="\n", file=sys.stderr))
STARTED = bool(LAYOUT.counts)  # whether a person's first labels have been taken in
UNUSED = () if PERSON else ("datasets.prepared.shards",)  # code that only a person's study runs
NEWEST = max(len(LAYOUT.counts), 1) if PERSON and workflow.is_main_process else 0  # round of a person's study
BEGINS = bool(WAITING and WAITING.ready)  # whether the newest round is about to begin
# Options of `lplgrad answers`, as an array of the shell whose braces Snakemake does not replace
CLASSES = STUDY.datasets[PERSON].classes if PERSON else None
PERSONAL = join(
    [
        *(["--settings", *words(LAYOUT.source_settings(PERSON))] if PERSON else []),
        *([f"--classes={as_json(CLASSES)}"] if CLASSES else []),
    ]
)
PERSONAL = PERSONAL.replace("{", "{{").replace("}", "}}")
# The results of a lost data set stay as they are.
PRESENT = LAYOUT if PERSON else Layout(STUDY, {**UNAVAILABLE, **LOST})
if workflow.is_main_process:
    for problem in [*GAPS, *changed.values(), *LOST.values()]:
        logger.warning(problem)
    if gone := {} if NO_JOBS else PRESENT.gone_models():
        again = {PRESENT.trained(trial, number) for trial, numbers in gone.items() for number in numbers}
        logger.warning(
            "checkpoints that the study keeps (see keep_checkpoints, model_figures) are missing: "
            f"{len(again)} round(s) of {len(gone)} trial(s) are trained again; with the same settings, to the same results"
        )
ROOT = LAYOUT.root
DATA = STUDY.data_dir
LOGS = f"logs/{STUDY.study}"
ARRAYS = ["train_inputs", "train_labels", "test_inputs", "test_labels"]
ROUND_PATH = "{budget}/{dataset}/{strategy}/seed{seed}/round{round}"
ROUND = f"{ROOT}/{ROUND_PATH}"
ROUND_LOGS = f"{LOGS}/{ROUND_PATH}"
ENVIRONMENT = HOME / "envs" / "lplgrad.yaml"
# Whether first labels are chosen, which may need a GPU, and not only drawn
CHOSEN = any(LAYOUT.budget(*panel).start.by for panel in product(STUDY.run.budgets, LAYOUT.datasets))
RUN = {"budget": STUDY.run.budgets, "dataset": LAYOUT.datasets, "strategy": STUDY.run.strategies}
SETTINGS = {}  # the parameters that `settings` made so far
# Snakemake asks for the signature of each parameter's function several times per job, and computes it anew without this.
OF_WILDCARDS = inspect.signature(lambda wildcards: None)
CHOICES = {**RUN, "recipe": LAYOUT.recipes(), "seed": [str(seed) for seed in STUDY.run.seeds]}
# Snakemake does not look for GPUs. Where jobs run on this machine, it learns here how many places on GPUs there are (a
# job finds its own, see src/lplgrad/machine/leases.py). Where there is none, no job waits for one.
LOCAL = workflow.is_main_process and workflow.resource_settings.nodes is None
PLACES = len(visible_devices()) * STUDY.compute.jobs_per_gpu if LOCAL and STUDY.compute.device != "cpu" else 0
GPU = 1 if PLACES or (not LOCAL and STUDY.compute.device != "cpu") else 0
if PLACES and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", PLACES)
# Jobs run with the Python that runs Snakemake or, if rules have environments of their own (--sdm), with theirs.
PYTHON = "python" if workflow.deployment_settings.deployment_method else quote(sys.executable)
LPLGRAD = f"{PYTHON} -m lplgrad"
SERVER = None  # where the fork server listens
if LOCAL and not workflow.deployment_settings.deployment_method and sys.platform == "linux":
    SERVER = fork_server.socket_path()
    LPLGRAD = join([sys.executable, "-I", "-S", str(fork_server.CLIENT), str(SERVER)])
    # Snakemake would measure the client. The server measures each job and writes the same files.
    workflow.benchmark = lambda path: lambda rule: rule
PYTHONPATH = quote(os.pathsep.join(filter(None, [str(HOME / "src"), os.environ.get("PYTHONPATH")])))
EXPLAIN = quote(str(HOME / "workflow" / "explain.sh"))  # what it means if a signal ended a job
# The two options cannot change a result, so they are variables of the shell and not params: changing them reruns nothing.
shell.prefix(
    f"set -euo pipefail; . {EXPLAIN}; "
    f'lplgrad() ( (PYTHONPATH={PYTHONPATH} exec {LPLGRAD} "$@") || explain "lplgrad $1" $? ); '
    f'place="--jobs-per-gpu {STUDY.compute.jobs_per_gpu}"; '
    f'progress="--progress-seconds {STUDY.compute.progress_seconds}"; '
    f"person=({PERSONAL}); "
)


wildcard_constraints:
    **{name: one_of(choices) for name, choices in CHOICES.items()},
    round="[1-9][0-9]*",


def warn_of_data():
    """Say which data sets are left out, and repeat what preparing the others warned of in logs that nobody reads."""
    warnings = (line for name in LAYOUT.datasets for line in availability.preparation_warnings(STUDY, name))
    for line in [*GAPS, *warnings]:
        logger.warning(line)


def tell_person():
    """Say which images wait after this run, and repeat what taking the labels in warned of."""
    if not PERSON:
        return
    from lplgrad.labeling import waiting

    layout = Layout(STUDY, UNAVAILABLE)
    for line in waiting.warnings(layout) if BEGINS or not STARTED else []:
        logger.warning(line)
    try:
        lines = waiting.message(waiting.waiting(STUDY, layout), STUDY, layout, workflow.overwrite_configfiles)
    except UserError as error:
        lines = [str(error)]
    TOLD[:] = lines


def settings(values, *names):
    """Parameters for `--settings`: all words in one, which depends on the output so that Snakemake does not compare it,
    and each word in one of its own, so that Snakemake names the words that changed and no others."""
    choices = product(*(CHOICES[name] for name in names))
    known = {which: words(values(*which)) for which in choices}

    def all_words(wildcards, output=None):
        return known[tuple(wildcards.get(name) or recipe_of(wildcards) for name in names)]

    def one_word(number):
        word = lambda wildcards: (all_words(wildcards)[number : number + 1] or [""])[0]
        word.__signature__ = OF_WILDCARDS
        return word

    # At least one word is empty, so that longer lists elsewhere in the study add none.
    each = {f"setting{number}": one_word(number) for number in range(max(map(len, known.values())) + 1)}
    inherited = dict.fromkeys(SETTINGS, "")  # what a rule does not replace, it inherits from the rule that it uses
    SETTINGS.update(each)
    return {"settings": all_words, **inherited, **each}


@cache
def code_digest(*roots, without=()):
    """Digest of the code that a job runs, with the name under which Snakemake shows that it changed."""
    return f"code={digest.code_digest(*roots, without=without)}"


@cache
def file_digest(name, *patterns):
    """Digest of files of the package that are not code, under a name. As inputs their absolute paths would count too."""
    files = [file for pattern in patterns for file in sorted((HOME / "src" / "lplgrad").glob(pattern))]
    return f"{name}={hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()[:16]}"


def trained_files(folder):
    """What a training writes into the folder of its round."""
    names = {"checkpoint": CHECKPOINT, "logits": "test_logits.npy"}
    names |= {name: f"{name}.json" for name in ("metrics", "timing", "settings")}
    return {key: f"{folder}/{name}" for key, name in names.items()}


def trial_of(wildcards):
    """The trial that a job belongs to."""
    return Trial(wildcards.budget, wildcards.dataset, wildcards.strategy, int(wildcards.seed))


def recipe_of(wildcards):
    """How the strategy of a job trains."""
    return STUDY.strategies[wildcards.strategy].recipe


def trained(wildcards, before=0):
    """What a round, or one before it, leaves behind of its training."""
    return trained_files(LAYOUT.trained(trial_of(wildcards), int(wildcards.round) - before))


def labels(wildcards):
    """The labelled set that a round trains on and queries from."""
    trial, number = trial_of(wildcards), int(wildcards.round)
    last = LAYOUT.rounds(trial.budget, trial.dataset)
    if number > last:
        raise WorkflowError(f"there is no round {number}: the budget {trial.budget!r} is spent in round {last}")
    return LAYOUT.labels(trial, number)


def learner_files(wildcards):
    """Files that options of the learner name. Their checksums are parameters: dates of files may be old or new."""
    return ancient(LAYOUT.training_files(wildcards.dataset, wildcards.get("recipe") or recipe_of(wildcards)))


def query_files(wildcards):
    """Files that options of a query and its learner name."""
    return ancient(LAYOUT.query_files(wildcards.dataset, wildcards.strategy))


def pool_of_round(wildcards):
    """The pool of a round, which grows while a person labels."""
    return LAYOUT.pool(trial_of(wildcards), int(wildcards.round)) if PERSON else []


def pool_option(input):
    """The option that names the pool of a round."""
    return f" --pool {quote(str(input.pool))}" if PERSON else ""


def chosen_by(wildcards):
    """The acquisition function that chooses the first labels; None if they are drawn."""
    return LAYOUT.budget(wildcards.budget, wildcards.dataset).start.by


def start_files(wildcards):
    """Files that the choice of the first labels reads."""
    return ancient(LAYOUT.start_files(wildcards.budget, wildcards.dataset))


def named(files):
    """The names of a pool's files, if its representation is among some files: rows of it may be named by them."""

    def names(wildcards):
        needed = STUDY.datasets[wildcards.dataset].features in files(wildcards)
        return ancient(f"{DATA}/{wildcards.dataset}/files.csv") if needed else []

    return names


def start_code(wildcards):
    """Digest of the code that draws or chooses the first labels."""
    by = chosen_by(wildcards)
    if not by:
        return code_digest("rounds.start.run", without=("rounds.chosen_start",))
    modality = modalities.registry.root(STUDY.datasets[wildcards.dataset].modality)
    return code_digest("rounds.start.run", acquisition.registry.root(by), modality)


@cache
def checksum(path):
    """The checksum of a file that an option names."""
    return f"{path}={file_sha256(Path(path))[:16]}"


def checksums(files):
    """A parameter: the checksums of some files, as a function of the wildcards."""
    return lambda wildcards: " ".join(map(checksum, files(wildcards)))


def trained_code(wildcards):
    """Roots of the code of the learner that a job trains or reads."""
    recipe = STUDY.recipes[wildcards.get("recipe") or recipe_of(wildcards)]
    return learner_code(recipe, STUDY.datasets[wildcards.dataset].backbone)


def query_code(wildcards):
    """Digest of the code that a query runs."""
    strategy = STUDY.strategies[wildcards.strategy]
    roots = trained_code(wildcards) if strategy.needs else []
    function = acquisition.registry.load(strategy.acquisition)
    norms = function.measures or any(need.endswith("gradient_norms") for need in strategy.needs)
    represented = any(map(acquisition.is_representation, strategy.needs))
    unused = {
        "rounds.representation": not represented,
        "gradient_norms": not norms,
        "labeling": not PERSON,
        "datasets.prepared.shards": not PERSON,
        "rounds.side": not acquisition.side_outputs(strategy.needs),
    }
    return code_digest(
        "rounds.query.run",
        acquisition.registry.root(strategy.acquisition),
        *roots,
        without=tuple(module for module, idle in unused.items() if idle),
    )


def table_code(function):
    """Digest of the code that makes a table. The one of data sets builds their networks, to count parameters."""
    rows = [STUDY.datasets[name] for name in LAYOUT.datasets] if function == "paper.tables.datasets" else []
    return code_digest(
        "report.tables.run", function, *sorted({backbones.registry.root(row.backbone.name) for row in rows})
    )


def queried_checkpoint(wildcards):
    """The checkpoint that a query scores with, if it needs one."""
    return trained(wildcards)["checkpoint"] if STUDY.strategies[wildcards.strategy].needs else []


def target(wildcards):
    """The option that lets a trial stop early, in any round but the first."""
    accuracy = wildcards.get("round") and LAYOUT.budget(wildcards.budget, wildcards.dataset).target_accuracy
    return f" --target-accuracy {accuracy}" if accuracy else ""


def bought(wildcards):
    """The option that refuses a file of labels that was cut off."""
    if PERSON:  # who labels any number; the file of the pool counts them
        return ""
    numbers = range(1, int(wildcards.get("round", 1)) + 1)
    return "--bought " + " ".join(str(LAYOUT.bought(wildcards.budget, wildcards.dataset, number)) for number in numbers)


def train_command(wildcards, input):
    """The command of a training, with the options that other jobs of a round do not have."""
    previous = f" --previous {quote(os.path.dirname(input.previous[0]))}" if input.previous else ""
    given = f"{bought(wildcards)}{target(wildcards)}{previous}{pool_option(input)}"
    return f"train $progress --round {wildcards.get('round', 1)} {given}"


def query_command(wildcards, input):
    """The command of a query, with the options that other jobs of a round do not have."""
    metrics = f" --metrics {quote(str(input.metrics))}" if target(wildcards) else ""
    asking = ""
    if PERSON:
        most = STUDY.datasets[PERSON].budgets[wildcards.budget].labels
        asking = f"{pool_option(input)} --answers {quote(LAYOUT.answers(PERSON))} --labels {most}"
    return f"query $progress --round {wildcards.round} {bought(wildcards)}{target(wildcards)}{metrics}{asking}"


def observe_command(wildcards, input):
    """The command of an observation."""
    return f"observe{pool_option(input)}"


def made_from(needs):
    """The inputs among what a kind of table or figure needs."""
    files = {**INPUTS, "diagnostics": rules.diagnostics.output}
    return {name: files[name] for name in needs if name in files}


def made_from_trial(wildcards):
    """The inputs of a figure of one trial: scores and images, tables, or what was observed in its models."""
    kind, trial = figure_of(wildcards)[0], trial_of(wildcards)
    if wildcards.figure == "chosen":
        scores = [f"{LAYOUT.round(trial, number)}/scores.csv" for number in LAYOUT.numbers(trial)[:-1]]
        return {"scores": scores, "data": rules.prepare.output}
    if "classes" in kind.needs:
        return made_from(kind.needs)
    rounds = [LAYOUT.round(trial, number) for number in LAYOUT.shown_models()[trial]]
    observed = expand("{round}/{name}", round=rounds, name=("features.npy", "observed.csv", "confidence.csv"))
    return {"observed": observed, "manifest": rules.start.input.manifest}


def options(needs, **names):
    """The options that give a kind of table or figure what it needs: files, and names of what it shows."""
    given = {name: value for name, value in {**INPUTS, **names}.items() if name in needs}
    return " ".join(f"--{name} {join([value] if isinstance(value, str) else value)}" for name, value in given.items())


def figure_of(wildcards):
    """A figure's kind, its row in SHOWN_FIGURES, and the names of what it shows: wildcards, or parts of its path."""
    folder, *parts = wildcards.figure.split("/")
    row = SHOWN_FIGURES.get(wildcards.figure) or SHOWN_FIGURES[folder]
    return FIGURES[row[0]], row, {**dict(zip(NAMES.get(folder, []), parts)), **dict(wildcards.items())}


def figure_command(wildcards):
    """The command that draws a figure. It names the highlighted strategies if the figure compares strategies."""
    kind, row, names = figure_of(wildcards)
    shown = [] if "strategy" in kind.needs else [name for name in STUDY.run.strategies if name in STUDY.highlight]
    highlight = f" --highlight {join(shown)}" if shown else ""
    return f"figure {row[0]} {options(kind.needs, **names)}{highlight}"


def of_figure(column):
    """What the report calls a figure: a function of the wildcards."""
    return lambda wildcards: captions.placed(STUDY, figure_of(wildcards)[1][column], figure_of(wildcards)[2])


def shown(path, caption, category, label, subcategory=None):
    """An output in the report."""
    labels = (lambda wildcards: {"result": label(wildcards)}) if callable(label) else {"result": label}
    caption = f"../../report/{caption}.rst"
    return report(path, caption=caption, category=category, subcategory=subcategory, labels=labels)
