# From measurements to tables and figures: seconds each, so that a cluster runs them where Snakemake runs. In the report
# every result has one label, unique in its category: of a second label with two values Snakemake makes a switch, and its
# page breaks where a combination is missing.


rule study:
    input:
        expand(rules.prepare.output.manifest, dataset=LAYOUT.datasets),
    output:
        report(
            f"{ROOT}/study.yaml",
            caption="../../report/study.rst",
            category="Study",
            labels={"result": "configuration"},
        ),
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


rule measurements:
    input:
        of_trainings("metrics.json"),
        of_trainings("settings.json"),
        of_queries("query_settings.json"),
        study=rules.study.output,
    output:
        measurements=report(
            f"{ROOT}/measurements.csv",
            caption="../../report/measurements.rst",
            category="Study",
            labels={"result": "measurements of accuracy"},
        ),
        classes=f"{ROOT}/classes.csv",
    log:
        f"{LOGS}/measurements.log",
    benchmark:
        f"{LOGS}/measurements.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        folder=subpath(output.measurements, parent=True),
        code=lambda wildcards: code_digest("analysis.collect.run"),
    shell:
        "lplgrad measurements --study {input.study:q} --output {params.folder:q} > {log:q} 2>&1"


rule timings:
    input:
        of_trainings("timing.json"),
        of_queries("query_timing.json"),
        study=rules.study.output,
    output:
        report(
            f"{ROOT}/timings.csv",
            caption="../../report/timings.rst",
            category="Study",
            labels={"result": "measurements of time"},
        ),
    log:
        f"{LOGS}/timings.log",
    benchmark:
        f"{LOGS}/timings.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=lambda wildcards: code_digest("analysis.collect.run_timings"),
    shell:
        "lplgrad timings --study {input.study:q} --output {output:q} > {log:q} 2>&1"


rule learning_curves:
    input:
        study=rules.study.output,
        measurements=rules.measurements.output.measurements,
    output:
        svg=report(
            f"{ROOT}/figures/learning_curves_{{budget}}.svg",
            caption="../../report/learning_curves.rst",
            category="Results",
            labels={"result": "learning curves, {budget} budget"},
        ),
        png=f"{ROOT}/figures/learning_curves_{{budget}}.png",
    log:
        f"{LOGS}/learning_curves_{{budget}}.log",
    benchmark:
        f"{LOGS}/learning_curves_{{budget}}.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=lambda wildcards: code_digest("report.figure.run"),
    shell:
        "lplgrad figure learning-curves --study {input.study:q} --measurements {input.measurements:q} "
        "--budget {wildcards.budget} --output {output:q} > {log:q} 2>&1"


rule dataset_curves:
    input:
        study=rules.study.output,
        measurements=rules.measurements.output.measurements,
    output:
        svg=report(
            f"{ROOT}/figures/datasets/{{dataset}}.svg",
            caption="../../report/dataset_curves.rst",
            category=dataset_category,
            subcategory="Learning curves",
            labels={"result": "all budgets"},
        ),
        png=f"{ROOT}/figures/datasets/{{dataset}}.png",
    log:
        f"{LOGS}/{{dataset}}/dataset_curves.log",
    benchmark:
        f"{LOGS}/{{dataset}}/dataset_curves.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=lambda wildcards: code_digest("report.figure.run"),
    shell:
        "lplgrad figure dataset-curves --study {input.study:q} --measurements {input.measurements:q} "
        "--dataset {wildcards.dataset} --output {output:q} > {log:q} 2>&1"


rule strategy_figure:
    input:
        study=rules.study.output,
        measurements=rules.measurements.output.measurements,
        classes=rules.measurements.output.classes,
    output:
        svg=report(
            f"{ROOT}/figures/strategies/{{budget}}/{{dataset}}/{{strategy}}.svg",
            caption="../../report/strategy.rst",
            category=dataset_category,
            subcategory="Strategies",
            labels=lambda wildcards: {"result": f"{strategy_label(wildcards)}, {wildcards.budget} budget"},
        ),
        png=f"{ROOT}/figures/strategies/{{budget}}/{{dataset}}/{{strategy}}.png",
    log:
        f"{LOGS}/{{budget}}/{{dataset}}/{{strategy}}/strategy_figure.log",
    benchmark:
        f"{LOGS}/{{budget}}/{{dataset}}/{{strategy}}/strategy_figure.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=lambda wildcards: code_digest("report.figure.run"),
    shell:
        "lplgrad figure strategy --study {input.study:q} --measurements {input.measurements:q} "
        "--classes {input.classes:q} --budget {wildcards.budget} --dataset {wildcards.dataset} "
        "--strategy {wildcards.strategy} --output {output:q} > {log:q} 2>&1"


rule chosen_figure:
    input:
        study=rules.study.output,
        scores=scores_of_trial,
        data=rules.prepare.output,
    output:
        report(
            f"{ROOT}/figures/chosen/{{budget}}/{{dataset}}/{{strategy}}/seed{{seed}}.png",
            caption="../../report/chosen.rst",
            category=dataset_category,
            subcategory="Chosen images",
            labels=lambda wildcards: {
                "result": f"{strategy_label(wildcards)}, {wildcards.budget} budget, seed {wildcards.seed}"
            },
        ),
    log:
        f"{LOGS}/{{budget}}/{{dataset}}/{{strategy}}/seed{{seed}}/chosen_figure.log",
    benchmark:
        f"{LOGS}/{{budget}}/{{dataset}}/{{strategy}}/seed{{seed}}/chosen_figure.tsv"
    conda:
        ENVIRONMENT
    params:
        code=lambda wildcards: code_digest("report.figure.run"),
    shell:
        "lplgrad figure chosen --study {input.study:q} --budget {wildcards.budget} --dataset {wildcards.dataset} "
        "--strategy {wildcards.strategy} --seed {wildcards.seed} --output {output:q} > {log:q} 2>&1"


TABLES = ["datasets", "budgets", "deviations", "accuracy", "time"]
if any(True for _ in LAYOUT.ablation_pairs()):
    TABLES.append("ablation")
if PUBLISHED & set(LAYOUT.datasets):
    TABLES += ["accuracy_against_paper", "time_against_paper"]
RESULTS = [
    rules.study.output,
    expand(f"{ROOT}/tables/{{table}}.{{ending}}", table=TABLES, ending=["csv", "html"]),
    expand(rules.learning_curves.output, budget=STUDY.run.budgets),
    expand(rules.dataset_curves.output, dataset=LAYOUT.datasets),
    expand(
        rules.strategy_figure.output,
        budget=STUDY.run.budgets,
        dataset=LAYOUT.datasets,
        strategy=STUDY.run.strategies,
    ),
    expand(
        rules.chosen_figure.output,
        budget=STUDY.run.budgets,
        dataset=LAYOUT.datasets,
        strategy=STUDY.run.strategies,
        seed=STUDY.run.seeds[0],
    ),
]
