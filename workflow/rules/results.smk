# From measurements to tables, figures and pages. Each takes seconds, so a cluster runs most of them where Snakemake runs.
# `use rule` does not inherit `localrule`.
# In the report each result has one label: with two, Snakemake 9 draws a toggle that breaks if a combination is missing.
from lplgrad.cli import FIGURES, TABLES
from lplgrad.study.pairs import ablation_pairs

MODALITIES = sorted({STUDY.datasets[name].modality for name in LAYOUT.datasets})
STATISTICS = f"{ROOT}/statistics"
COMPARED = ["rounds", "areas", "area_summary", "area_differences", "gains", "round_differences"]
COMPARED += ["labels_needed", "penalties", "ranks", "left_out"]
DIAGNOSED = ["calibration", "choices", "overlap", "score_loss", "score_loss_summary"]
TRIAL = "{budget}/{dataset}/{strategy}/seed{seed}"
# Options of the commands that name files. A kind of table or figure needs some of them, and its rule has them as inputs.
INPUTS = {name: f"{ROOT}/{name}.csv" for name in ("measurements", "classes", "timings")}
# Relative paths, so that a project that was moved reruns nothing.
INPUTS["presets"] = [os.path.relpath(HOME / name) for name in ("config.yaml", "studies/authors_code.yaml")]
INPUTS["diagnostics"] = STATISTICS
# Tables by the names of their files: category and label in the report, and the paper's numbers that they use.
SHOWN_TABLES = {
    "datasets": ("Study", "data sets (Table I)", "paper/datasets.csv"),
    "budgets": ("Study", "budgets (Table II)", "paper/budgets.csv"),
    "deviations": ("Study", "paper, authors' code and this study"),
    "accuracy": ("Results", "accuracy (Table III)"),
    "time": ("Results", "time (Table IV)"),
    "ablation": ("Results", "with and without the auxiliary module (Tables V, VI)", "paper/ablation.csv"),
    "accuracy_against_paper": ("Paper against ours", "accuracy", "paper/accuracy.csv"),
    "time_against_paper": ("Paper against ours", "time", "paper/time.csv"),
}
KINDS = {name: name.replace("_", "-") for name in SHOWN_TABLES}  # as the command names them
# Figures by the names of their files or folders: kind; category, subcategory and label in the report.
OF_TRIAL = "{strategy}, {budget} budget, seed {seed}"
SHOWN_FIGURES = {
    "differences": ("differences", "Comparison", None, "differences"),
    "gains": ("gains", "Comparison", None, "gains over random labelling"),
    "penalties": ("penalties", "Comparison", None, "penalties"),
    "ranks": ("ranks", "Comparison", None, "ranks"),
    "datasets": ("dataset-curves", "{dataset}", "Learning curves", "all budgets"),
    "strategies": ("strategy", "{dataset}", "Strategies", "{strategy}, {budget} budget"),
    "learning_curves": ("learning-curves", "Results", None, "learning curves, {budget} budget"),
    "cost": ("cost", "Results", None, "accuracy by seconds, {budget} budget"),
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
STUDY_FIGURES = ["differences", "gains", "penalties", "ranks", *expand("datasets/{dataset}", dataset=LAYOUT.datasets)]
STUDY_FIGURES += expand("strategies/{budget}/{dataset}/{strategy}", **RUN)
NAMES = {"datasets": ["dataset"], "strategies": ["budget", "dataset", "strategy"]}  # in the paths of these figures
READ = [name for name in LAYOUT.datasets if LAYOUT.features(name)]  # data sets whose file of features is read
TEXTS = file_digest("texts", "*/page.html", "*/texts.j2")


rule study:
    input:
        expand(rules.prepare.output.manifest, dataset=LAYOUT.datasets),
    output:
        shown(f"{ROOT}/study.yaml", "files", "Study", "configuration"),
    log:
        f"{LOGS}/study.log",
    priority: 1  # it tells early of a budget that a data set turns out too small for
    localrule: True
    conda:
        ENVIRONMENT
    params:
        **settings(LAYOUT.study_settings),
        unavailable=lambda wildcards: as_json(UNAVAILABLE),  # braces in it are no wildcards
        code=lambda wildcards: code_digest("study.record.run", without=() if READ else ("rounds.representation",)),
    shell:
        "lplgrad study --settings {params.settings:q} --unavailable {params.unavailable:q} --prepared "
        "--output {output:q} > {log:q} 2>&1"


# The rules below have this one's shell command: a command of lplgrad on the study, with a folder or files to write.
rule measurements:
    input:
        LAYOUT.of_trainings("metrics.json", "settings.json"),
        [] if PERSON else LAYOUT.of_queries("query_settings.json"),
        study=rules.study.output,
    output:
        measurements=shown(INPUTS["measurements"], "files", "Study", "measurements of accuracy"),
        classes=INPUTS["classes"],
    log:
        f"{LOGS}/measurements.log",
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
        LAYOUT.of_trainings("timing.json"),
        [] if PERSON else LAYOUT.of_queries("query_timing.json"),
        study=rules.study.output,
    output:
        shown(INPUTS["timings"], "files", "Study", "measurements of time"),
    log:
        f"{LOGS}/timings.log",
    localrule: True
    params:
        command="timings",
        to=lambda wildcards, output: list(output),
        code=lambda wildcards: code_digest("analysis.collect.run_timings"),


use rule measurements as statistics with:
    input:
        study=rules.study.output,
        measurements=rules.measurements.output.measurements,
    output:
        expand(f"{STATISTICS}/{{name}}.csv", name=COMPARED),
        html=shown(f"{STATISTICS}/statistics.html", "page", "Comparison", "statistics"),
    log:
        f"{LOGS}/statistics.log",
    localrule: True
    params:
        command=lambda wildcards: f"statistics {options(['measurements'])}",
        to=subpath(output.html, parent=True),
        texts=TEXTS,
        code=lambda wildcards: code_digest("report.statistics.run"),


use rule measurements as diagnostics with:
    input:
        LAYOUT.of_trainings("test_logits.npy"),
        LAYOUT.of_queries("scores.csv", "next_labeled.csv", "test_scores.csv"),
        arrays=ancient(expand(f"{DATA}/{{dataset}}/{{array}}.npy", dataset=LAYOUT.datasets, array=ARRAYS)),
        study=rules.study.output,
    output:
        expand(f"{STATISTICS}/{{name}}.csv", name=DIAGNOSED),
        html=shown(f"{STATISTICS}/score_loss.html", "page", "Diagnostics", "scores and true loss"),
    log:
        f"{LOGS}/diagnostics.log",
    params:
        command="diagnostics",
        to=subpath(output.html, parent=True),
        texts=TEXTS,
        code=lambda wildcards: code_digest("report.diagnostics.run", *map(modalities.registry.root, MODALITIES)),


# How the labelling goes, in a study that a person labels.
use rule measurements as review with:
    input:
        LAYOUT.of_trainings("metrics.json", "settings.json", "test_logits.npy"),
        [LAYOUT.batch(trial, LAYOUT.numbers(trial)[-1]) for trial in LAYOUT.trials()] if PERSON else [],
        study=rules.study.output,
    output:
        expand(f"{ROOT}/review/{{name}}.csv", name=["rounds", "confusions", "suspicious"]),
        html=shown(f"{ROOT}/review/review.html", "page", "Review", "how the labelling goes"),
    log:
        f"{LOGS}/review.log",
    localrule: True
    params:
        command="review",
        to=subpath(output.html, parent=True),
        texts=TEXTS,
        code=lambda wildcards: code_digest("report.review.run"),


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
    localrule: True
    params:
        command=lambda wildcards: f"claims {options(['measurements', 'timings'])}",
        to=subpath(output.html, parent=True),
        paper=file_digest("paper", "paper/*.csv", "paper/*.yaml"),
        texts=TEXTS,
        code=lambda wildcards: code_digest("paper.claims.run"),


use rule measurements as table with:
    input:
        unpack(lambda wildcards: made_from(TABLES[KINDS[wildcards.table]].needs)),
        manifests=lambda wildcards: rules.study.input if wildcards.table == "datasets" else [],
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
    wildcard_constraints:
        table=one_of(SHOWN_TABLES),
    localrule: True
    params:
        command=lambda wildcards: f"table {KINDS[wildcards.table]} {options(TABLES[KINDS[wildcards.table]].needs)}",
        to=lambda wildcards, output: list(output),
        paper=lambda wildcards: file_digest("paper", *SHOWN_TABLES[wildcards.table][2:]),
        texts=TEXTS,
        code=lambda wildcards: table_code(TABLES[KINDS[wildcards.table]].function),


use rule measurements as study_figure with:
    input:
        unpack(lambda wildcards: made_from(figure_of(wildcards)[0].needs)),
        study=rules.study.output,
    output:
        svg=shown(f"{ROOT}/figures/{{figure}}.svg", "study_figure", *map(of_figure, (1, 3, 2))),
        png=f"{ROOT}/figures/{{figure}}.png",
    log:
        f"{LOGS}/figures/{{figure}}.log",
    wildcard_constraints:
        figure=one_of(STUDY_FIGURES),
    localrule: True
    params:
        command=figure_command,
        # The format that is drawn first settles the layout: of contact sheets .png, of other figures .svg.
        to=lambda wildcards, output: sorted(output, reverse=wildcards.figure != "chosen"),
        texts=lambda wildcards: TEXTS if wildcards.figure == "ranks" else "",
        code=lambda wildcards: code_digest("report.figures.run", figure_of(wildcards)[0].function),


use rule study_figure as budget_figure with:
    output:
        svg=shown(f"{ROOT}/figures/{{figure}}_{{budget}}.svg", "budget_figure", *map(of_figure, (1, 3))),
        png=f"{ROOT}/figures/{{figure}}_{{budget}}.png",
    log:
        f"{LOGS}/figures/{{figure}}_{{budget}}.log",
    wildcard_constraints:
        figure=one_of(BUDGET_FIGURES),
    localrule: True


use rule study_figure as trial_figure with:
    input:
        unpack(made_from_trial),
        study=rules.study.output,
    output:
        svg=shown(f"{ROOT}/figures/{{figure}}/{TRIAL}.svg", "trial_figure", *map(of_figure, (1, 3, 2))),
        png=f"{ROOT}/figures/{{figure}}/{TRIAL}.png",
    log:
        f"{LOGS}/figures/{{figure}}/{TRIAL}.log",
    wildcard_constraints:
        figure=one_of(["chosen", *MODEL_FIGURES]),


# Not in the report: with many labels, the lists would make it large.
use rule measurements as chosen_files with:
    input:
        scores=lambda wildcards: [
            f"{LAYOUT.round(trial_of(wildcards), number)}/scores.csv"
            for number in LAYOUT.numbers(trial_of(wildcards))[:-1]
        ],
        files=rules.files.output,
        study=rules.study.output,
    output:
        f"{ROOT}/figures/chosen/{TRIAL}.csv",
    log:
        f"{LOGS}/figures/chosen/{TRIAL}_files.log",
    localrule: True
    params:
        command=lambda wildcards: f"table chosen-files {options(TABLES['chosen-files'].needs, **dict(wildcards.items()))}",
        to=lambda wildcards, output: list(output),
        code=lambda wildcards: code_digest("report.tables.run", TABLES["chosen-files"].function),


without = set() if any(ablation_pairs(STUDY)) else {"ablation"}
published = set(read_study([CONFIG]).run.datasets)  # config.yaml is the paper
without |= set() if published & set(LAYOUT.datasets) else {"accuracy_against_paper", "time_against_paper"}
PICTURES = [name for name in LAYOUT.datasets if modalities.registry.load(STUDY.datasets[name].modality).pictures]
RESULTS = [rules.study.output, rules.statistics.output, rules.diagnostics.output, rules.claims.output]
RESULTS += [
    expand(rules.table.output, table=[name for name in SHOWN_TABLES if name not in without]),
    expand(rules.study_figure.output, figure=STUDY_FIGURES),
    expand(rules.budget_figure.output, figure=BUDGET_FIGURES, budget=STUDY.run.budgets),
    expand(rules.trial_figure.output, figure="chosen", seed=STUDY.run.seeds[0], **{**RUN, "dataset": PICTURES}),
    [expand(rules.trial_figure.output, figure=MODEL_FIGURES, **vars(trial)) for trial in LAYOUT.shown_models()],
]
if PERSON:  # nothing to compare; and no names of files, which the preparation writes
    RESULTS = [rules.study.output, rules.review.output]
    RESULTS += [LAYOUT.batch(trial, LAYOUT.numbers(trial)[-1]) for trial in LAYOUT.trials()]
# A data set that is gone is not prepared again for the sake of names, and one in a read-only folder keeps those it has.
FOLDERS = {name: Path(DATA, name) for name in PRESENT.datasets}
NAMED = [
    name
    for name, folder in FOLDERS.items()
    if name != PERSON
    if os.access(folder, os.W_OK) or (folder / "files.csv").exists() or not folder.exists()
]
RESULTS += [
    expand(rules.files.output, dataset=NAMED),
    expand(rules.chosen_files.output, seed=STUDY.run.seeds[0], **{**RUN, "dataset": NAMED}),
]
