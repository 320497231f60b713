# The paper's tables and the study's own, each as numbers (.csv) and as a page (.html).


rule datasets_table:
    input:
        study=rules.study.output,
    output:
        csv=f"{ROOT}/tables/datasets.csv",
        html=report(
            f"{ROOT}/tables/datasets.html",
            caption="../../report/datasets_table.rst",
            category="Study",
            labels={"result": "data sets (Table I)"},
        ),
    log:
        f"{LOGS}/datasets_table.log",
    benchmark:
        f"{LOGS}/datasets_table.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=lambda wildcards: code_digest("report.table.run"),
        paper=paper_digest("datasets.csv"),
    shell:
        "lplgrad table datasets --study {input.study:q} --output {output:q} > {log:q} 2>&1"


rule budgets_table:
    input:
        study=rules.study.output,
    output:
        csv=f"{ROOT}/tables/budgets.csv",
        html=report(
            f"{ROOT}/tables/budgets.html",
            caption="../../report/budgets_table.rst",
            category="Study",
            labels={"result": "budgets (Table II)"},
        ),
    log:
        f"{LOGS}/budgets_table.log",
    benchmark:
        f"{LOGS}/budgets_table.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=lambda wildcards: code_digest("report.table.run"),
        paper=paper_digest("budgets.csv"),
    shell:
        "lplgrad table budgets --study {input.study:q} --output {output:q} > {log:q} 2>&1"


rule deviations_table:
    input:
        study=rules.study.output,
        presets=[beside_snakefile("config.yaml"), beside_snakefile("studies/authors_code.yaml")],
    output:
        csv=f"{ROOT}/tables/deviations.csv",
        html=report(
            f"{ROOT}/tables/deviations.html",
            caption="../../report/deviations_table.rst",
            category="Study",
            labels={"result": "paper, authors' code and this study"},
        ),
    log:
        f"{LOGS}/deviations_table.log",
    benchmark:
        f"{LOGS}/deviations_table.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=lambda wildcards: code_digest("report.table.run"),
    shell:
        "lplgrad table deviations --study {input.study:q} --presets {input.presets:q} "
        "--output {output:q} > {log:q} 2>&1"


rule accuracy_table:
    input:
        study=rules.study.output,
        measurements=rules.measurements.output.measurements,
    output:
        csv=f"{ROOT}/tables/accuracy.csv",
        html=report(
            f"{ROOT}/tables/accuracy.html",
            caption="../../report/accuracy_table.rst",
            category="Results",
            labels={"result": "accuracy (Table III)"},
        ),
    log:
        f"{LOGS}/accuracy_table.log",
    benchmark:
        f"{LOGS}/accuracy_table.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=lambda wildcards: code_digest("report.table.run"),
    shell:
        "lplgrad table accuracy --study {input.study:q} --measurements {input.measurements:q} "
        "--output {output:q} > {log:q} 2>&1"


rule time_table:
    input:
        study=rules.study.output,
        measurements=rules.timings.output,
    output:
        csv=f"{ROOT}/tables/time.csv",
        html=report(
            f"{ROOT}/tables/time.html",
            caption="../../report/time_table.rst",
            category="Results",
            labels={"result": "time (Table IV)"},
        ),
    log:
        f"{LOGS}/time_table.log",
    benchmark:
        f"{LOGS}/time_table.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=lambda wildcards: code_digest("report.table.run"),
    shell:
        "lplgrad table time --study {input.study:q} --measurements {input.measurements:q} "
        "--output {output:q} > {log:q} 2>&1"


rule ablation_table:
    input:
        study=rules.study.output,
        measurements=rules.measurements.output.measurements,
    output:
        csv=f"{ROOT}/tables/ablation.csv",
        html=report(
            f"{ROOT}/tables/ablation.html",
            caption="../../report/ablation_table.rst",
            category="Results",
            labels={"result": "with and without the auxiliary module (Tables V, VI)"},
        ),
    log:
        f"{LOGS}/ablation_table.log",
    benchmark:
        f"{LOGS}/ablation_table.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=lambda wildcards: code_digest("report.table.run"),
        paper=paper_digest("ablation.csv"),
    shell:
        "lplgrad table ablation --study {input.study:q} --measurements {input.measurements:q} "
        "--output {output:q} > {log:q} 2>&1"


rule accuracy_against_paper_table:
    input:
        study=rules.study.output,
        measurements=rules.measurements.output.measurements,
    output:
        csv=f"{ROOT}/tables/accuracy_against_paper.csv",
        html=report(
            f"{ROOT}/tables/accuracy_against_paper.html",
            caption="../../report/accuracy_against_paper.rst",
            category="Paper against ours",
            labels={"result": "accuracy"},
        ),
    log:
        f"{LOGS}/accuracy_against_paper_table.log",
    benchmark:
        f"{LOGS}/accuracy_against_paper_table.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=lambda wildcards: code_digest("report.table.run"),
        paper=paper_digest("accuracy.csv"),
    shell:
        "lplgrad table accuracy-against-paper --study {input.study:q} --measurements {input.measurements:q} "
        "--output {output:q} > {log:q} 2>&1"


rule time_against_paper_table:
    input:
        study=rules.study.output,
        measurements=rules.timings.output,
    output:
        csv=f"{ROOT}/tables/time_against_paper.csv",
        html=report(
            f"{ROOT}/tables/time_against_paper.html",
            caption="../../report/time_against_paper.rst",
            category="Paper against ours",
            labels={"result": "time"},
        ),
    log:
        f"{LOGS}/time_against_paper_table.log",
    benchmark:
        f"{LOGS}/time_against_paper_table.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=lambda wildcards: code_digest("report.table.run"),
        paper=paper_digest("time.csv"),
    shell:
        "lplgrad table time-against-paper --study {input.study:q} --measurements {input.measurements:q} "
        "--output {output:q} > {log:q} 2>&1"
