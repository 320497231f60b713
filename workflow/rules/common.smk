# The study, read and checked, and what the rules ask of it. No rule stands here.
import hashlib
import json
import mimetypes
import os
import sys
from shlex import join, quote

from snakemake.cli import get_argument_parser
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

HOME = Path(workflow.basedir)
CONFIG = HOME / "config.yaml"
sys.path.insert(0, str(HOME / "src"))

from lplgrad import acquisition
from lplgrad.machine.digest import code_digest
from lplgrad.machine.errors import UserError
from lplgrad.machine.leases import visible_devices
from lplgrad.study.reading import check_reported, read_study
from lplgrad.report import captions
from lplgrad.study.layout import (
    Trial,
    Layout,
    changed_originals,
    check_prepared_datasets,
    lost_datasets,
    lost_message,
    one_of,
    preparation_warnings,
    unavailable_datasets,
)

mimetypes.add_type("text/plain", ".yaml")  # which the report would otherwise warn of

# Jobs find the package wherever they run: on this machine or a cluster, with the Python that runs Snakemake or, where
# rules have environments of their own (--sdm), with theirs.
PYTHON = "python" if workflow.deployment_settings.deployment_method else quote(sys.executable)
PYTHONPATH = quote(os.pathsep.join(filter(None, [str(HOME / "src"), os.environ.get("PYTHONPATH")])))


# Snakemake tells a workflow too late what it is about to do.
REPORTS = any(word.partition("=")[0] == "--report" for word in sys.argv)
NO_JOBS = REPORTS or "--unlock" in sys.argv


def is_forced(manifest):
    """Whether the command line makes Snakemake prepare a data set again."""
    told, _ = get_argument_parser().parse_known_args(sys.argv[1:])
    named = {*told.forcerun, *(told.targets if told.force else [])}
    # Snakemake compares file names in this form.
    files = {name if os.path.isabs(name) else os.path.relpath(name) for name in named}
    return told.forceall or "prepare" in named or manifest in files


# The study of config.yaml and of what the command line puts over it. Snakemake merges the same files into `config`; here
# each is checked on its own first.
FILES = [] if workflow.config_settings.replace_workflow_config else [CONFIG]
try:
    STUDY = read_study([*FILES, *workflow.overwrite_configfiles], workflow.config_settings.config)
    check_prepared_datasets(STUDY)
    # On a cluster's node the files are not listed again.
    changed = changed_originals(STUDY) if workflow.is_main_process else {}
    refused = [why for name, why in changed.items() if not is_forced(f"{STUDY.data_dir}/{name}/dataset.json")]
    if refused and not NO_JOBS:
        raise UserError("; ".join(refused))
    if REPORTS:
        check_reported(STUDY)
except UserError as error:
    raise WorkflowError(str(error)) from None
for problem in changed.values():
    logger.warning(problem)
for name in lost_datasets(STUDY) if workflow.is_main_process else []:
    logger.warning(lost_message(STUDY, name))

UNAVAILABLE = unavailable_datasets(STUDY)


def warn_of_gaps():
    """Tell which data sets are left out."""
    for dataset, reason in UNAVAILABLE.items():
        logger.warning(f"data set {dataset} is left out: {reason}")


warn_of_gaps()
if len(UNAVAILABLE) == len(STUDY.run.datasets):
    raise WorkflowError("none of the study's data sets can be had")
LAYOUT = Layout(STUDY, UNAVAILABLE)
for trial, numbers in LAYOUT.gone_models().items():
    logger.warning(
        f"model_figures names models of {trial.strategy}, {trial.dataset}, {trial.budget} budget, seed {trial.seed} that "
        f"were not kept: rounds {numbers[0]} to {numbers[-1]} are trained again, to the same results"
    )
PUBLISHED = set(read_study([CONFIG]).run.datasets)  # config.yaml is the paper
ROOT = LAYOUT.root
DATA = STUDY.data_dir
LOGS = f"logs/{STUDY.study}"
ARRAYS = ["train_images", "train_labels", "test_images", "test_labels"]
ROUND_PATH = "{budget}/{dataset}/{strategy}/seed{seed}/round{round}"
ROUND = f"{ROOT}/{ROUND_PATH}"
ROUND_LOGS = f"{LOGS}/{ROUND_PATH}"
ENVIRONMENT = HOME / "envs" / "lplgrad.yaml"
# Snakemake counts GPUs, it does not look for them. Where jobs run on this machine, it is told how many places on GPUs
# there are (a job finds its own, see src/lplgrad/leases.py); where there is none, no job waits for one.
LOCAL = workflow.is_main_process and workflow.resource_settings.nodes is None
PLACES = len(visible_devices()) * STUDY.compute.jobs_per_gpu if LOCAL and STUDY.compute.device != "cpu" else 0
GPU = 1 if PLACES or (not LOCAL and STUDY.compute.device != "cpu") else 0
if PLACES and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", PLACES)
EXPLAIN = quote(str(HOME / "workflow" / "explain.sh"))  # what it means if a signal ended a job
# These options cannot change a result, so they are variables of the shell and not params: changing them reruns nothing.
shell.prefix(
    f"set -euo pipefail; . {EXPLAIN}; "
    f'lplgrad() ( (PYTHONPATH={PYTHONPATH} exec {PYTHON} -m lplgrad "$@") || explain "lplgrad $1" $? ); '
    f'place="--jobs-per-gpu {STUDY.compute.jobs_per_gpu}"; '
    f'progress="--progress-seconds {STUDY.compute.progress_seconds}"; '
)


wildcard_constraints:
    budget=one_of(STUDY.run.budgets),
    dataset=one_of(LAYOUT.datasets),
    strategy=one_of(STUDY.run.strategies),
    recipe=one_of(LAYOUT.recipes()),
    seed=one_of([str(seed) for seed in STUDY.run.seeds]),
    round="[1-9][0-9]*",


def warn_of_data():
    """Repeat what preparing the data sets warned of, which would otherwise stay in a log that nobody reads."""
    for dataset in LAYOUT.datasets:
        for line in preparation_warnings(STUDY, dataset):
            logger.warning(line)


def delete_leftovers():
    """Delete what trainings kept in case they had to be done again; and, once all of the study is there, the temporary
    models that a Snakemake which was killed left behind."""
    for kept in Path(ROOT).rglob("progress.safetensors"):
        if (kept.parent / "metrics.json").exists():
            kept.unlink()
    if not (workflow.dag_settings.targets or workflow.storage_settings.notemp):
        for left in LAYOUT.leftover_checkpoints():
            left.unlink()


def beside_snakefile(path):
    """A file of the project as an input; relative, so that a project that was moved reruns nothing."""
    return os.path.relpath(HOME / path)


def trial_of(wildcards):
    """The trial that a job belongs to."""
    return Trial(wildcards.budget, wildcards.dataset, wildcards.strategy, int(wildcards.seed))


def labels(wildcards):
    """The labelled set that a round trains on and queries from."""
    trial, number = trial_of(wildcards), int(wildcards.round)
    last = LAYOUT.rounds(trial.budget, trial.dataset)
    if number > last:
        raise WorkflowError(f"there is no round {number}: the budget {trial.budget!r} is spent in round {last}")
    return LAYOUT.labels(trial, number)


def previous_checkpoint(wildcards):
    """The checkpoint that a warm start trains on."""
    if STUDY.recipes[STUDY.strategies[wildcards.strategy].recipe].init == "fresh":
        return []
    return f"{LAYOUT.trained(trial_of(wildcards), int(wildcards.round) - 1)}/checkpoint.safetensors"


def queried_checkpoint(wildcards):
    """The checkpoint that a query asks, if it asks one."""
    if not acquisition.load(STUDY.strategies[wildcards.strategy].acquisition).needs:
        return []
    return f"{LAYOUT.trained(trial_of(wildcards), int(wildcards.round))}/checkpoint.safetensors"


def queried_gpu(wildcards):
    """A query that asks no model needs no GPU."""
    return GPU if acquisition.load(STUDY.strategies[wildcards.strategy].acquisition).needs else 0


def results_of_round(trial, number):
    """What a round leaves behind of its training."""
    names = ("checkpoint.safetensors", "test_logits.npy", "metrics.json", "timing.json", "settings.json")
    return [f"{LAYOUT.trained(trial, number)}/{name}" for name in names]


def previous_results(wildcards):
    """Where a trial may stop early: the round before, which tells whether it has."""
    if LAYOUT.target(wildcards.budget, wildcards.dataset) is None:
        return []
    return results_of_round(trial_of(wildcards), int(wildcards.round) - 1)


def metrics_of_round(wildcards):
    """The same for a query: the metrics of its own round."""
    if LAYOUT.target(wildcards.budget, wildcards.dataset) is None:
        return []
    return f"{LAYOUT.trained(trial_of(wildcards), int(wildcards.round))}/metrics.json"


def target(wildcards, input):
    """The arguments that let a trial stop early, where it may."""
    accuracy = LAYOUT.target(wildcards.budget, wildcards.dataset)
    if accuracy is None:
        return ""
    if hasattr(input, "metrics"):
        return f"--target-accuracy {accuracy} --metrics {quote(input.metrics)}"
    return f"--target-accuracy {accuracy} --previous {quote(os.path.dirname(input.previous[0]))}"


def file_digest(*patterns):
    """Digest of files of the package that are not code. They are not inputs: as such their absolute paths would count."""
    files = [file for pattern in patterns for file in sorted((HOME / "src" / "lplgrad").glob(pattern))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def query_code(wildcards):
    """Digest of the code that a query runs."""
    name = STUDY.strategies[wildcards.strategy].acquisition
    unused = set() if "gradient_norms" in acquisition.load(name).needs else {"gradient_norms"}
    return code_digest("rounds.query.run", f"acquisition.{name}.ACQUISITION", without=unused)


def prepare_code(wildcards):
    """Digest of the code that prepares a data set."""
    return code_digest("datasets.prepared.prepare.run", f"datasets.{STUDY.datasets[wildcards.dataset].source}.SOURCE")


def observed_checkpoint(wildcards):
    """The model that is looked into."""
    return f"{LAYOUT.trained(trial_of(wildcards), int(wildcards.round))}/checkpoint.safetensors"


def made_from(needs):
    """The inputs among what a kind of table or figure needs."""
    return {name: rules.diagnostics.output if name == "diagnostics" else FILES[name] for name in needs if name in FILES}


def made_from_trial(wildcards):
    """The inputs of a figure of one trial: scores and images, tables, or what was observed in its models."""
    kind, trial = figure_row(wildcards)[0], trial_of(wildcards)
    if kind == "chosen":
        rounds = range(1, LAYOUT.rounds(trial.budget, trial.dataset))
        scores = [f"{LAYOUT.round(trial, number)}/scores.csv" for number in rounds]
        return {"scores": scores, "data": rules.prepare.output}
    if kind == "class-accuracy":
        return made_from(FIGURES[kind].needs)
    names = ("features.npy", "observed.csv", "confidence.csv")
    rounds = LAYOUT.shown_models()[trial]
    observed = [f"{LAYOUT.round(trial, number)}/{name}" for number in rounds for name in names]
    return {"observed": observed, "manifest": rules.start.input.manifest}


def options(needs, **names):
    """The options that give a kind of table or figure what it needs: files, and names of what it shows."""
    given = {name: value for name, value in {**FILES, **names}.items() if name in needs}
    return " ".join(f"--{name} {join([value] if isinstance(value, str) else value)}" for name, value in given.items())


def table_kind(wildcards):
    """The kind of a table as the command names it."""
    return wildcards.table.replace("_", "-")


def table_command(wildcards):
    """The command that makes a table."""
    kind = table_kind(wildcards)
    return f"table {kind} {options(TABLES[kind].needs)}"


def figure_command(wildcards):
    """The command that draws a figure."""
    kind = figure_row(wildcards)[0]
    return f"figure {kind} {options(FIGURES[kind].needs, **figure_names(wildcards))}"


def figure_row(wildcards):
    """The row of a figure in SHOWN_FIGURES, found by its path or by the folder that the path begins with."""
    return SHOWN_FIGURES.get(wildcards.figure) or SHOWN_FIGURES[wildcards.figure.partition("/")[0]]


def figure_names(wildcards):
    """The names of what a figure shows: wildcards, or parts of a path such as strategies/small/digits/entropy."""
    folder, *parts = wildcards.figure.split("/")
    return {**dict(zip(NAMES.get(folder, []), parts)), **dict(wildcards.items())}


def of_figure(column):
    """What the report calls a figure: a function of the wildcards."""
    return lambda wildcards: captions.placed(STUDY, figure_row(wildcards)[column], figure_names(wildcards))


def shown(path, caption, category, label, subcategory=None):
    """An output in the report."""
    labels = (lambda wildcards: {"result": label(wildcards)}) if callable(label) else {"result": label}
    caption = f"../../report/{caption}.rst"
    return report(path, caption=caption, category=category, subcategory=subcategory, labels=labels)


def harmless(json_text):
    """JSON that means the same without the mark that ends a script, since the report's page writes it into one."""
    return json_text.replace("<", "\\u003c")


def of_trainings(name):
    """A file of every training of the study; round 1 once for all strategies of a recipe."""
    return list(
        dict.fromkeys(
            f"{LAYOUT.trained(trial, number)}/{name}"
            for trial in LAYOUT.trials()
            for number in range(1, LAYOUT.rounds(trial.budget, trial.dataset) + 1)
        )
    )


def of_queries(name):
    """A file of every query of the study; the last round has none."""
    return [
        f"{LAYOUT.round(trial, number)}/{name}"
        for trial in LAYOUT.trials()
        for number in range(1, LAYOUT.rounds(trial.budget, trial.dataset))
    ]
