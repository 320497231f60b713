# The loop of active learning, unrolled: draw labels, train, query, train, query, ...
START = "{budget}/{dataset}/start/seed{seed}"


rule start:
    input:
        manifest=f"{DATA}/{{dataset}}/dataset.json",
        arrays=ancient([f"{DATA}/{{dataset}}/{array}.npy" for array in ARRAYS]),
    output:
        f"{ROOT}/{START}/labeled.csv",
    log:
        f"{LOGS}/{START}/start.log",
    benchmark:
        f"{LOGS}/{START}/start.tsv"
    localrule: True  # done before a cluster would have begun
    conda:
        ENVIRONMENT
    resources:  # no parameters: they are only checked, and a larger budget must not draw the start anew
        candidates=lambda wildcards: LAYOUT.budget(wildcards.budget, wildcards.dataset).subset or 0,
        labels=lambda wildcards: LAYOUT.budget(wildcards.budget, wildcards.dataset).labels,
    params:
        data=subpath(input.manifest, parent=True),
        query_size=lambda wildcards: LAYOUT.budget(wildcards.budget, wildcards.dataset).query_size,
        code=lambda wildcards: code_digest("rounds.start.run"),
    shell:
        "lplgrad start --data {params.data:q} --query-size {params.query_size} --candidates {resources.candidates} "
        "--labels {resources.labels} --seed {wildcards.seed} --output {output:q} > {log:q} 2>&1"


rule train:
    input:
        labeled=labels,
        checkpoint=previous_checkpoint,
        previous=previous_results,
        manifest=rules.start.input.manifest,
        arrays=rules.start.input.arrays,
    output:
        **{**trained_files(ROUND), "checkpoint": temp(f"{ROUND}/checkpoint.safetensors")},
    log:
        f"{ROUND_LOGS}/train.log",
    benchmark:
        f"{ROUND_LOGS}/train.tsv"
    conda:
        ENVIRONMENT
    threads: STUDY.compute.threads
    resources:
        gpu=GPU,
    params:
        **settings(LAYOUT.training_settings, "dataset", "recipe"),
        data=subpath(input.manifest, parent=True),
        round=lambda wildcards, output: wildcards.get("round", 1),
        previous=lambda wildcards, input: [os.path.dirname(file) for file in input.previous[:1]],
        target=target,
        folder=subpath(output.metrics, parent=True),
        code=lambda wildcards: code_digest("rounds.train.run"),
    shell:
        "lplgrad train --data {params.data:q} --labeled {input.labeled:q} --checkpoint {input.checkpoint:q} "
        "--previous {params.previous:q} --round {params.round} {params.target} --seed {wildcards.seed} "
        "--settings {params.settings:q} $place $progress --output {params.folder:q} > {log:q} 2>&1"


# The same, where the checkpoint stays: of every trial's last round, and where the configuration keeps more. The
# constraint looks ahead along the whole path, since which round is the last depends on the data set and the budget.
use rule train as train_kept with:
    output:
        **trained_files(ROUND),
    wildcard_constraints:
        budget=f"(?={LAYOUT.kept_checkpoints()})(?:{one_of(STUDY.run.budgets)})",


ruleorder: train_kept > train


# Round 1, once for all strategies of a recipe.
use rule train as train_start with:
    input:
        labeled=rules.start.output,
        checkpoint=[],
        previous=[],
        manifest=rules.start.input.manifest,
        arrays=rules.start.input.arrays,
    output:
        **trained_files(f"{ROOT}/{START}/{{recipe}}"),
    log:
        f"{LOGS}/{START}/{{recipe}}/train.log",
    benchmark:
        f"{LOGS}/{START}/{{recipe}}/train.tsv"


rule query:
    input:
        labeled=labels,
        checkpoint=queried_checkpoint,
        metrics=metrics_of_round,
        manifest=rules.start.input.manifest,
        arrays=rules.start.input.arrays,
    output:
        scores=f"{ROUND}/scores.csv",
        labeled=f"{ROUND}/next_labeled.csv",
        timing=f"{ROUND}/query_timing.json",
        settings=f"{ROUND}/query_settings.json",
        test_scores=f"{ROUND}/test_scores.csv",
    log:
        f"{ROUND_LOGS}/query.log",
    benchmark:
        f"{ROUND_LOGS}/query.tsv"
    conda:
        ENVIRONMENT
    threads: STUDY.compute.threads
    resources:
        gpu=lambda wildcards: GPU if queried_checkpoint(wildcards) else 0,
    params:
        **settings(LAYOUT.query_settings, "budget", "dataset", "strategy"),
        data=subpath(input.manifest, parent=True),
        folder=subpath(output.scores, parent=True),
        target=target,
        code=query_code,
    shell:
        "lplgrad query --data {params.data:q} --labeled {input.labeled:q} --checkpoint {input.checkpoint:q} "
        "--metrics {input.metrics:q} --round {wildcards.round} {params.target} --seed {wildcards.seed} "
        "--settings {params.settings:q} $place --output {params.folder:q} > {log:q} 2>&1"
