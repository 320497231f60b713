# Figures that look into single models, for the trials and rounds that `model_figures` names (the paper's figures 6 to 8).
TRIAL = "{budget}/{dataset}/{strategy}/seed{seed}"


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


rule model_figure:
    input:
        study=rules.study.output,
        observed=observations,
        manifest=rules.start.input.manifest,
    output:
        svg=report(
            f"{ROOT}/figures/models/{{kind}}/{TRIAL}.svg",
            caption="../../report/model_figure.rst",
            category=dataset_category,
            subcategory="Models",
            labels=lambda wildcards: {"result": model_label(wildcards.kind, wildcards)},
        ),
        png=f"{ROOT}/figures/models/{{kind}}/{TRIAL}.png",
    log:
        f"{LOGS}/{TRIAL}/{{kind}}_figure.log",
    benchmark:
        f"{LOGS}/{TRIAL}/{{kind}}_figure.tsv"
    wildcard_constraints:
        kind="embeddings|confidence|loss-correlation",
    conda:
        ENVIRONMENT
    params:
        test_images=f"{STUDY.model_figures.embedded_images:,} randomly drawn test images (all, if there are fewer)",
        code=lambda wildcards: code_digest("report.figure.run"),
    shell:
        "lplgrad figure {wildcards.kind} --study {input.study:q} --budget {wildcards.budget} "
        "--dataset {wildcards.dataset} --strategy {wildcards.strategy} --seed {wildcards.seed} --output {output:q} "
        "> {log:q} 2>&1"


rule class_accuracy_figure:
    input:
        study=rules.study.output,
        classes=rules.measurements.output.classes,
    output:
        svg=report(
            f"{ROOT}/figures/models/class-accuracy/{TRIAL}.svg",
            caption="../../report/class_accuracy.rst",
            category=dataset_category,
            subcategory="Models",
            labels=lambda wildcards: {"result": model_label("class-accuracy", wildcards)},
        ),
        png=f"{ROOT}/figures/models/class-accuracy/{TRIAL}.png",
    log:
        f"{LOGS}/{TRIAL}/class_accuracy_figure.log",
    benchmark:
        f"{LOGS}/{TRIAL}/class_accuracy_figure.tsv"
    conda:
        ENVIRONMENT
    params:
        code=lambda wildcards: code_digest("report.figure.run"),
    shell:
        "lplgrad figure class-accuracy --study {input.study:q} --classes {input.classes:q} "
        "--budget {wildcards.budget} --dataset {wildcards.dataset} --strategy {wildcards.strategy} "
        "--seed {wildcards.seed} --output {output:q} > {log:q} 2>&1"


RESULTS += [
    f"{ROOT}/figures/models/{kind}/{trial.budget}/{trial.dataset}/{trial.strategy}/seed{trial.seed}.{ending}"
    for trial in LAYOUT.shown_models()
    for kind in MODEL_FIGURES
    for ending in ("svg", "png")
]
