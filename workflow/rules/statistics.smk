# Strategies compared: tests and intervals, what accuracy does not say, and the paper's claims.
STATISTICS = f"{ROOT}/statistics"


rule statistics:
    input:
        study=rules.study.output,
        measurements=rules.measurements.output.measurements,
    output:
        multiext(
            f"{STATISTICS}/",
            "rounds.csv",
            "areas.csv",
            "area_summary.csv",
            "area_differences.csv",
            "round_differences.csv",
            "labels_needed.csv",
            "penalties.csv",
            "ranks.csv",
            "left_out.csv",
        ),
        html=report(
            f"{STATISTICS}/statistics.html",
            caption="../../report/statistics.rst",
            category="Comparison",
            labels={"result": "statistics"},
        ),
    log:
        f"{LOGS}/statistics.log",
    benchmark:
        f"{LOGS}/statistics.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        folder=subpath(output.html, parent=True),
        code=lambda wildcards: code_digest("report.statistics.run"),
    shell:
        "lplgrad statistics --study {input.study:q} --measurements {input.measurements:q} --output {params.folder:q} "
        "> {log:q} 2>&1"


rule comparison_figure:
    input:
        study=rules.study.output,
        measurements=rules.measurements.output.measurements,
    output:
        svg=report(
            f"{ROOT}/figures/{{comparison}}.svg",
            caption="../../report/comparison_figure.rst",
            category="Comparison",
            labels={"result": "{comparison}"},
        ),
        png=f"{ROOT}/figures/{{comparison}}.png",
    log:
        f"{LOGS}/{{comparison}}.log",
    benchmark:
        f"{LOGS}/{{comparison}}.tsv"
    wildcard_constraints:
        comparison="differences|penalties|ranks",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=lambda wildcards: code_digest("report.compare.run"),
    shell:
        "lplgrad compare {wildcards.comparison} --study {input.study:q} --measurements {input.measurements:q} "
        "--output {output:q} > {log:q} 2>&1"


rule cost_figure:
    input:
        study=rules.study.output,
        measurements=rules.measurements.output.measurements,
        timings=rules.timings.output,
    output:
        svg=report(
            f"{ROOT}/figures/cost_{{budget}}.svg",
            caption="../../report/cost_figure.rst",
            category="Results",
            labels={"result": "accuracy by labels and by seconds, {budget} budget"},
        ),
        png=f"{ROOT}/figures/cost_{{budget}}.png",
    log:
        f"{LOGS}/cost_{{budget}}.log",
    benchmark:
        f"{LOGS}/cost_{{budget}}.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=lambda wildcards: code_digest("report.compare.run"),
    shell:
        "lplgrad compare cost --study {input.study:q} --measurements {input.measurements:q} --timings {input.timings:q} "
        "--budget {wildcards.budget} --output {output:q} > {log:q} 2>&1"


rule diagnostics:
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
            calibration="calibration.csv",
            choices="choices.csv",
            overlap="overlap.csv",
            score_loss="score_loss.csv",
            score_loss_summary="score_loss_summary.csv",
        ),
        html=report(
            f"{STATISTICS}/score_loss.html",
            caption="../../report/score_loss.rst",
            category="Diagnostics",
            labels={"result": "scores and true loss"},
        ),
    log:
        f"{LOGS}/diagnostics.log",
    benchmark:
        f"{LOGS}/diagnostics.tsv"
    conda:
        ENVIRONMENT
    params:
        folder=subpath(output.calibration, parent=True),
        code=lambda wildcards: code_digest("report.diagnostics.run"),
    shell:
        "lplgrad diagnostics --study {input.study:q} --output {params.folder:q} > {log:q} 2>&1"


rule diagnostics_figure:
    input:
        rules.diagnostics.output,
        study=rules.study.output,
    output:
        svg=report(
            f"{ROOT}/figures/{{diagnostics}}_{{budget}}.svg",
            caption="../../report/diagnostics_figure.rst",
            category="Diagnostics",
            labels={"result": "{diagnostics}, {budget} budget"},
        ),
        png=f"{ROOT}/figures/{{diagnostics}}_{{budget}}.png",
    log:
        f"{LOGS}/{{diagnostics}}_{{budget}}.log",
    benchmark:
        f"{LOGS}/{{diagnostics}}_{{budget}}.tsv"
    wildcard_constraints:
        diagnostics="calibration|choices",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        folder=subpath(input[0], parent=True),
        code=lambda wildcards: code_digest("report.compare.run"),
    shell:
        "lplgrad compare {wildcards.diagnostics} --study {input.study:q} --diagnostics {params.folder:q} "
        "--budget {wildcards.budget} --output {output:q} > {log:q} 2>&1"


rule claims:
    input:
        study=rules.study.output,
        measurements=rules.measurements.output.measurements,
        timings=rules.timings.output,
    output:
        verdicts=f"{ROOT}/claims/claims.csv",
        cells=f"{ROOT}/claims/cells.csv",
        html=report(
            f"{ROOT}/claims/claims.html",
            caption="../../report/claims.rst",
            category="Claims",
            labels={"result": "the paper's claims"},
        ),
    log:
        f"{LOGS}/claims.log",
    benchmark:
        f"{LOGS}/claims.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        folder=subpath(output.html, parent=True),
        paper=paper_digest(),
        code=lambda wildcards: code_digest("paper.claims.run"),
    shell:
        "lplgrad claims --study {input.study:q} --measurements {input.measurements:q} --timings {input.timings:q} "
        "--output {params.folder:q} > {log:q} 2>&1"


RESULTS += [
    rules.statistics.output,
    expand(rules.comparison_figure.output, comparison=["differences", "penalties", "ranks"]),
    expand(rules.cost_figure.output, budget=STUDY.run.budgets),
    rules.diagnostics.output,
    expand(rules.diagnostics_figure.output, diagnostics=["calibration", "choices"], budget=STUDY.run.budgets),
    rules.claims.output,
]
