# From measurements to tables, figures and pages: seconds each, so a cluster runs most of them where Snakemake runs. In the
# report each result has one label, unique in its category. If results have two labels, Snakemake 9 draws a toggle, and the
# page breaks if a combination is missing.
from lplgrad.cli import FIGURES, TABLES

STATISTICS = f"{ROOT}/statistics"
TRIAL = "{budget}/{dataset}/{strategy}/seed{seed}"
RUN = {"budget": STUDY.run.budgets, "dataset": LAYOUT.datasets, "strategy": STUDY.run.strategies}
# Options of the commands that name files. A kind of table or figure needs some of them, and its rule has them as inputs.
INPUTS = {name: f"{ROOT}/{name}.csv" for name in ("measurements", "classes", "timings")}
INPUTS["presets"] = [beside_snakefile("config.yaml"), beside_snakefile("studies/authors_code.yaml")]
INPUTS["diagnostics"] = STATISTICS
# Tables by the names of their files: category and label in the report, and the paper's numbers that they use.
SHOWN_TABLES = {
    "datasets": ("Study", "data sets (Table I)", "datasets.csv"),
    "budgets": ("Study", "budgets (Table II)", "budgets.csv"),
    "deviations": ("Study", "paper, authors' code and this study", ""),
    "accuracy": ("Results", "accuracy (Table III)", ""),
    "time": ("Results", "time (Table IV)", ""),
    "ablation": ("Results", "with and without the auxiliary module (Tables V, VI)", "ablation.csv"),
    "accuracy_against_paper": ("Paper against ours", "accuracy", "accuracy.csv"),
    "time_against_paper": ("Paper against ours", "time", "time.csv"),
}
# Figures by the names of their files or folders: kind; category, subcategory and label in the report.
OF_TRIAL = "{strategy}, {budget} budget, seed {seed}"
SHOWN_FIGURES = {
    "differences": ("differences", "Comparison", None, "differences"),
    "penalties": ("penalties", "Comparison", None, "penalties"),
    "ranks": ("ranks", "Comparison", None, "ranks"),
    "datasets": ("dataset-curves", "{dataset}", "Learning curves", "all budgets"),
    "strategies": ("strategy", "{dataset}", "Strategies", "{strategy}, {budget} budget"),
    "learning_curves": ("learning-curves", "Results", None, "learning curves, {budget} budget"),
    "cost": ("cost", "Results", None, "accuracy by labels and by seconds, {budget} budget"),
    "calibration": ("calibration", "Diagnostics", None, "calibration, {budget} budget"),
    "choices": ("choices", "Diagnostics", None, "choices, {budget} budget"),
    "chosen": ("chosen", "{dataset}", "Chosen images", OF_TRIAL),
    "models/embeddings": ("embeddings", "{dataset}", "Models", f"t-SNE, {OF_TRIAL}"),
    "models/confidence": ("confidence", "{dataset}", "Models", f"confidence, {OF_TRIAL}"),
    "models/loss-correlation": ("loss-correlation", "{dataset}", "Models", f"scores and true loss, {OF_TRIAL}"),
    "models/class-accuracy": ("class-accuracy", "{dataset}", "Models", f"accuracy by class, {OF_TRIAL}"),
}
MODEL_FIGURES = [name for name in SHOWN_FIGURES if name.startswith("models/")]
BUDGET_FIGURES = ["learning_curves", "cost", "calibration", "choices"]
STUDY_FIGURES = ["differences", "penalties", "ranks", *expand("datasets/{dataset}", dataset=LAYOUT.datasets)]
STUDY_FIGURES += expand("strategies/{budget}/{dataset}/{strategy}", **RUN)
NAMES = {"datasets": ["dataset"], "strategies": ["budget", "dataset", "strategy"]}  # in the paths of these figures
TEXTS = file_digest("texts", "*/page.html", "*/texts.j2")


def made_from(needs):
    """The inputs among what a kind of table or figure needs."""
    return {
        name: rules.diagnostics.output if name == "diagnostics" else INPUTS[name] for name in needs if name in INPUTS
    }


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
    given = {name: value for name, value in {**INPUTS, **names}.items() if name in needs}
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


rule study:
    input:
        expand(rules.prepare.output.manifest, dataset=LAYOUT.datasets),
    output:
        shown(f"{ROOT}/study.yaml", "files", "Study", "configuration"),
    log:
        f"{LOGS}/study.log",
    benchmark:
        f"{LOGS}/study.tsv"
    priority: 1  # it tells early of a budget that a data set turns out too small for
    localrule: True
    conda:
        ENVIRONMENT
    params:
        **settings(LAYOUT.study_settings),
        unavailable=lambda wildcards: harmless(json.dumps(UNAVAILABLE, ensure_ascii=False)),  # braces in it are no wildcards
        code=lambda wildcards: code_digest("study.record.run"),
    shell:
        "lplgrad study --settings {params.settings:q} --unavailable {params.unavailable:q} --prepared "
        "--output {output:q} > {log:q} 2>&1"


# Models that figures look into: those of the trials and rounds that `model_figures` names (the paper's figures 6 to 8).
rule observe:
    input:
        labeled=labels,
        checkpoint=observed_checkpoint,
        manifest=rules.start.input.manifest,
        arrays=rules.start.input.arrays,
    output:
        features=f"{ROUND}/features.npy",
        observed=f"{ROUND}/observed.csv",
        confidence=f"{ROUND}/confidence.csv",
    log:
        f"{ROUND_LOGS}/observe.log",
    benchmark:
        f"{ROUND_LOGS}/observe.tsv"
    conda:
        ENVIRONMENT
    threads: STUDY.compute.threads
    resources:
        gpu=GPU,
    params:
        **settings(LAYOUT.observation_settings),
        data=subpath(input.manifest, parent=True),
        folder=subpath(output.features, parent=True),
        code=lambda wildcards: code_digest("rounds.observe.run"),
    shell:
        "lplgrad observe --data {params.data:q} --labeled {input.labeled:q} --checkpoint {input.checkpoint:q} "
        "--seed {wildcards.seed} --settings {params.settings:q} $place --output {params.folder:q} > {log:q} 2>&1"


# The rules below have this one's shell command: a command of lplgrad on the study, with a folder or files to write.
rule measurements:
    input:
        of_trainings("metrics.json"),
        of_trainings("settings.json"),
        of_queries("query_settings.json"),
        study=rules.study.output,
    output:
        measurements=shown(INPUTS["measurements"], "files", "Study", "measurements of accuracy"),
        classes=INPUTS["classes"],
    log:
        f"{LOGS}/measurements.log",
    benchmark:
        f"{LOGS}/measurements.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        command="measurements",
        to=subpath(output.measurements, parent=True),
        code=lambda wildcards: code_digest("analysis.collect.run"),
    shell:
        "lplgrad {params.command} --study {input.study:q} --output {params.to:q} > {log:q} 2>&1"


use rule measurements as timings with:
    input:
        of_trainings("timing.json"),
        of_queries("query_timing.json"),
        study=rules.study.output,
    output:
        shown(INPUTS["timings"], "files", "Study", "measurements of time"),
    log:
        f"{LOGS}/timings.log",
    benchmark:
        f"{LOGS}/timings.tsv"
    params:
        command="timings",
        to=lambda wildcards, output: list(output),
        code=lambda wildcards: code_digest("analysis.collect.run_timings"),


use rule measurements as statistics with:
    input:
        study=rules.study.output,
        measurements=rules.measurements.output.measurements,
    output:
        multiext(
            f"{STATISTICS}/",
            *("rounds.csv", "areas.csv", "area_summary.csv", "area_differences.csv", "round_differences.csv"),
            *("labels_needed.csv", "penalties.csv", "ranks.csv", "left_out.csv"),
        ),
        html=shown(f"{STATISTICS}/statistics.html", "page", "Comparison", "statistics"),
    log:
        f"{LOGS}/statistics.log",
    benchmark:
        f"{LOGS}/statistics.tsv"
    params:
        command=lambda wildcards: f"statistics {options(['measurements'])}",
        to=subpath(output.html, parent=True),
        texts=TEXTS,
        code=lambda wildcards: code_digest("report.statistics.run"),


use rule measurements as diagnostics with:
    input:
        of_trainings("test_logits.npy"),
        of_queries("scores.csv"),
        of_queries("next_labeled.csv"),
        of_queries("test_scores.csv"),
        arrays=ancient(expand(f"{DATA}/{{dataset}}/{{array}}.npy", dataset=LAYOUT.datasets, array=ARRAYS)),
        study=rules.study.output,
    output:
        multiext(
            f"{STATISTICS}/",
            *("calibration.csv", "choices.csv", "overlap.csv", "score_loss.csv", "score_loss_summary.csv"),
        ),
        html=shown(f"{STATISTICS}/score_loss.html", "page", "Diagnostics", "scores and true loss"),
    log:
        f"{LOGS}/diagnostics.log",
    benchmark:
        f"{LOGS}/diagnostics.tsv"
    localrule: False
    params:
        command="diagnostics",
        to=subpath(output.html, parent=True),
        texts=TEXTS,
        code=lambda wildcards: code_digest("report.diagnostics.run"),


use rule measurements as claims with:
    input:
        study=rules.study.output,
        measurements=rules.measurements.output.measurements,
        timings=rules.timings.output,
    output:
        verdicts=f"{ROOT}/claims/claims.csv",
        cells=f"{ROOT}/claims/cells.csv",
        html=shown(f"{ROOT}/claims/claims.html", "page", "Claims", "the paper's claims"),
    log:
        f"{LOGS}/claims.log",
    benchmark:
        f"{LOGS}/claims.tsv"
    params:
        command=lambda wildcards: f"claims {options(['measurements', 'timings'])}",
        to=subpath(output.html, parent=True),
        paper=file_digest("paper", "paper/*.csv", "paper/*.yaml"),
        texts=TEXTS,
        code=lambda wildcards: code_digest("paper.claims.run"),


use rule measurements as table with:
    input:
        unpack(lambda wildcards: made_from(TABLES[table_kind(wildcards)].needs)),
        study=rules.study.output,
    output:
        csv=f"{ROOT}/tables/{{table}}.csv",
        html=shown(
            f"{ROOT}/tables/{{table}}.html",
            "table",
            category=lambda wildcards: SHOWN_TABLES[wildcards.table][0],
            label=lambda wildcards: SHOWN_TABLES[wildcards.table][1],
        ),
    log:
        f"{LOGS}/tables/{{table}}.log",
    benchmark:
        f"{LOGS}/tables/{{table}}.tsv"
    wildcard_constraints:
        table=one_of(SHOWN_TABLES),
    params:
        command=table_command,
        to=lambda wildcards, output: list(output),
        paper=lambda wildcards: [
            file_digest("paper", f"paper/{name}") for name in SHOWN_TABLES[wildcards.table][2:] if name
        ],
        texts=TEXTS,
        code=lambda wildcards: code_digest("report.tables.run", TABLES[table_kind(wildcards)].function),


use rule measurements as study_figure with:
    input:
        unpack(lambda wildcards: made_from(FIGURES[figure_row(wildcards)[0]].needs)),
        study=rules.study.output,
    output:
        svg=shown(f"{ROOT}/figures/{{figure}}.svg", "study_figure", *map(of_figure, (1, 3, 2))),
        png=f"{ROOT}/figures/{{figure}}.png",
    log:
        f"{LOGS}/figures/{{figure}}.log",
    benchmark:
        f"{LOGS}/figures/{{figure}}.tsv"
    wildcard_constraints:
        figure=one_of(STUDY_FIGURES),
    params:
        command=figure_command,
        to=lambda wildcards, output: list(output),
        texts=lambda wildcards: TEXTS if wildcards.figure == "ranks" else "",
        code=lambda wildcards: code_digest("report.figures.run", FIGURES[figure_row(wildcards)[0]].function),


use rule study_figure as budget_figure with:
    output:
        svg=shown(f"{ROOT}/figures/{{figure}}_{{budget}}.svg", "budget_figure", *map(of_figure, (1, 3))),
        png=f"{ROOT}/figures/{{figure}}_{{budget}}.png",
    log:
        f"{LOGS}/figures/{{figure}}_{{budget}}.log",
    benchmark:
        f"{LOGS}/figures/{{figure}}_{{budget}}.tsv"
    wildcard_constraints:
        figure=one_of(BUDGET_FIGURES),


use rule study_figure as trial_figure with:
    input:
        unpack(made_from_trial),
        study=rules.study.output,
    output:
        svg=shown(f"{ROOT}/figures/{{figure}}/{TRIAL}.svg", "trial_figure", *map(of_figure, (1, 3, 2))),
        png=f"{ROOT}/figures/{{figure}}/{TRIAL}.png",
    log:
        f"{LOGS}/figures/{{figure}}/{TRIAL}.log",
    benchmark:
        f"{LOGS}/figures/{{figure}}/{TRIAL}.tsv"
    wildcard_constraints:
        figure=one_of(["chosen", *MODEL_FIGURES]),
    localrule: False


without = set() if any(LAYOUT.ablation_pairs()) else {"ablation"}
without |= set() if PUBLISHED & set(LAYOUT.datasets) else {"accuracy_against_paper", "time_against_paper"}
RESULTS = [
    rules.study.output,
    rules.statistics.output,
    rules.diagnostics.output,
    rules.claims.output,
    expand(rules.table.output, table=[name for name in SHOWN_TABLES if name not in without]),
    expand(rules.study_figure.output, figure=STUDY_FIGURES),
    expand(rules.budget_figure.output, figure=BUDGET_FIGURES, budget=STUDY.run.budgets),
    expand(rules.trial_figure.output, figure="chosen", seed=STUDY.run.seeds[0], **RUN),
    [expand(rules.trial_figure.output, figure=MODEL_FIGURES, **vars(trial)) for trial in LAYOUT.shown_models()],
]
