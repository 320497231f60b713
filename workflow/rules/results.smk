# From measurements to tables and figures. In the report every result has one label, unique in its category: of a second
# label with two values Snakemake makes a switch, and its page breaks where a combination is missing.


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
    conda:
        ENVIRONMENT
    params:
        settings=LAYOUT.study_settings(),
        unavailable=json.dumps(UNAVAILABLE),
        code=code_digest("commands.study"),
    shell:
        "lplgrad study --settings {params.settings:q} --unavailable {params.unavailable:q} --prepared --output {output:q} > {log:q} 2>&1"


rule measurements:
    input:
        of_trainings("metrics.json"),
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
    conda:
        ENVIRONMENT
    params:
        folder=subpath(output.measurements, parent=True),
        code=code_digest("commands.measurements"),
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
    conda:
        ENVIRONMENT
    params:
        code=code_digest("commands.timings"),
    shell:
        "lplgrad timings --study {input.study:q} --output {output:q} > {log:q} 2>&1"


rule accuracy_table:
    input:
        study=rules.study.output,
        measurements=rules.measurements.output.measurements,
    output:
        csv=f"{ROOT}/tables/accuracy.csv",
        html=report(
            f"{ROOT}/tables/accuracy.html",
            caption="../../report/accuracy_table.rst",
            category="Accuracy",
            labels={"result": "table"},
        ),
    log:
        f"{LOGS}/accuracy_table.log",
    benchmark:
        f"{LOGS}/accuracy_table.tsv"
    conda:
        ENVIRONMENT
    params:
        code=code_digest("commands.table"),
    shell:
        "lplgrad table accuracy --study {input.study:q} --measurements {input.measurements:q} "
        "--output {output:q} > {log:q} 2>&1"


rule time_table:
    input:
        study=rules.study.output,
        timings=rules.timings.output,
    output:
        csv=f"{ROOT}/tables/time.csv",
        html=report(
            f"{ROOT}/tables/time.html",
            caption="../../report/time_table.rst",
            category="Time",
            labels={"result": "table"},
        ),
    log:
        f"{LOGS}/time_table.log",
    benchmark:
        f"{LOGS}/time_table.tsv"
    conda:
        ENVIRONMENT
    params:
        code=code_digest("commands.table"),
    shell:
        "lplgrad table time --study {input.study:q} --measurements {input.timings:q} "
        "--output {output:q} > {log:q} 2>&1"


rule learning_curves:
    input:
        study=rules.study.output,
        measurements=rules.measurements.output.measurements,
    output:
        svg=report(
            f"{ROOT}/figures/learning_curves_{{budget}}.svg",
            caption="../../report/learning_curves.rst",
            category="Accuracy",
            labels={"result": "learning curves, {budget} budget"},
        ),
        png=f"{ROOT}/figures/learning_curves_{{budget}}.png",
    log:
        f"{LOGS}/learning_curves_{{budget}}.log",
    benchmark:
        f"{LOGS}/learning_curves_{{budget}}.tsv"
    conda:
        ENVIRONMENT
    params:
        code=code_digest("commands.figure"),
    shell:
        "lplgrad figure learning-curves --study {input.study:q} --measurements {input.measurements:q} "
        "--budget {wildcards.budget} --output {output:q} > {log:q} 2>&1"


rule strategy_figure:
    input:
        study=rules.study.output,
        measurements=rules.measurements.output.measurements,
        classes=rules.measurements.output.classes,
    output:
        svg=report(
            f"{ROOT}/figures/strategies/{{budget}}_{{dataset}}_{{strategy}}.svg",
            caption="../../report/strategy.rst",
            category="Strategies",
            subcategory=strategy_title,
            labels=lambda wildcards: {"result": f"{dataset_title(wildcards)}, {wildcards.budget} budget"},
        ),
        png=f"{ROOT}/figures/strategies/{{budget}}_{{dataset}}_{{strategy}}.png",
    log:
        f"{LOGS}/strategies/{{budget}}_{{dataset}}_{{strategy}}.log",
    benchmark:
        f"{LOGS}/strategies/{{budget}}_{{dataset}}_{{strategy}}.tsv"
    conda:
        ENVIRONMENT
    params:
        title=strategy_title,
        dataset_title=dataset_title,
        code=code_digest("commands.figure"),
    shell:
        "lplgrad figure strategy --study {input.study:q} --measurements {input.measurements:q} "
        "--classes {input.classes:q} --budget {wildcards.budget} --dataset {wildcards.dataset} "
        "--strategy {wildcards.strategy} --output {output:q} > {log:q} 2>&1"


RESULTS = [
    rules.study.output,
    rules.accuracy_table.output,
    rules.time_table.output,
    expand(rules.learning_curves.output, budget=STUDY.run.budgets),
    expand(
        rules.strategy_figure.output,
        budget=STUDY.run.budgets,
        dataset=LAYOUT.datasets,
        strategy=STUDY.run.strategies,
    ),
]
