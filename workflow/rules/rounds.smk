# The loop of active learning, unrolled: prepare the images, draw labels, train, query, train, query, ...
OWN = f"{STUDY.run.strategies[0]}/" if PERSON else ""  # a person's strategy begins with all labels that are there then
START = f"{{budget}}/{{dataset}}/start/{OWN}seed{{seed}}"


rule prepare:
    output:
        manifest=f"{DATA}/{{dataset}}/dataset.json",
        provenance=f"{DATA}/{{dataset}}/provenance.json",
        arrays=[f"{DATA}/{{dataset}}/{array}.npy" for array in ARRAYS],
    log:
        LAYOUT.preparation_log("{dataset}"),
    benchmark:
        f"{LOGS}/{{dataset}}/prepare.tsv"
    wildcard_constraints:
        # Positions in the pool of a person never move, so it is prepared once.
        dataset=one_of(
            [name for name in LAYOUT.datasets if name != PERSON or not Path(DATA, name, "dataset.json").exists()]
        ),
    localrule: True  # a cluster's nodes may have no network
    conda:
        ENVIRONMENT
    threads: 8
    params:
        **settings(LAYOUT.source_settings, "dataset"),
        downloads=f"{DATA}/downloads",
        folder=subpath(output.manifest, parent=True),
        code=lambda wildcards: code_digest(
            "datasets.prepared.prepare.run",
            datasets.registry.root(STUDY.datasets[wildcards.dataset].source),
            modalities.registry.root(STUDY.datasets[wildcards.dataset].modality),
        ),
    shell:
        "lplgrad prepare --settings {params.settings:q} --downloads {params.downloads:q} --threads {threads} "
        "--output {params.folder:q} > {log:q} 2>&1"


# For people. No round reads the names, and an edit of code must not name files that were deleted since: no digest.
rule files:
    input:
        manifest=rules.prepare.output.manifest,
        arrays=ancient(rules.prepare.output.arrays),
    output:
        f"{DATA}/{{dataset}}/files.csv",
    log:
        f"{LOGS}/{{dataset}}/files.log",
    benchmark:
        f"{LOGS}/{{dataset}}/files.tsv"
    localrule: True  # a cluster's nodes may not have the original files
    conda:
        ENVIRONMENT
    threads: 8
    params:
        data=subpath(input.manifest, parent=True),
        downloads=f"{DATA}/downloads",
    shell:
        "lplgrad files --data {params.data:q} --downloads {params.downloads:q} --threads {threads} "
        "--output {output:q} > {log:q} 2>&1"


if PERSON:

    include: "person.smk"

else:

    rule start:
        input:
            manifest=f"{DATA}/{{dataset}}/dataset.json",
            arrays=ancient([f"{DATA}/{{dataset}}/{array}.npy" for array in ARRAYS]),
            files=start_files,
            names=named(start_files),
        output:
            f"{ROOT}/{START}/labeled.csv",
        log:
            f"{LOGS}/{START}/start.log",
        benchmark:
            f"{LOGS}/{START}/start.tsv"
        localrule: not CHOSEN  # a draw is done before a cluster would have begun
        conda:
            ENVIRONMENT
        resources:  # no parameters: they are only checked, and another budget must not draw the start anew
            query_size=lambda wildcards: LAYOUT.budget(wildcards.budget, wildcards.dataset).query_size,
            candidates=lambda wildcards: LAYOUT.budget(wildcards.budget, wildcards.dataset).subset or 0,
            labels=lambda wildcards: LAYOUT.budget(wildcards.budget, wildcards.dataset).labels,
            gpu=lambda wildcards: GPU if chosen_by(wildcards) else 0,
        params:
            **settings(LAYOUT.start_settings, "budget", "dataset"),
            data=subpath(input.manifest, parent=True),
            size=lambda wildcards: LAYOUT.bought(wildcards.budget, wildcards.dataset, 1),
            draw=lambda wildcards: LAYOUT.budget(wildcards.budget, wildcards.dataset).start.draw,
            files=checksums(start_files),
            code=start_code,
        shell:
            "lplgrad start --data {params.data:q} --query-size {resources.query_size} --size {params.size} "
            "--draw {params.draw} --candidates {resources.candidates} --labels {resources.labels} "
            "--settings {params.settings:q} --seed {wildcards.seed} $place --output {output:q} > {log:q} 2>&1"


rule train:
    input:
        labeled=labels,
        checkpoint=lambda wildcards: (
            trained(wildcards, before=1)["checkpoint"] if STUDY.recipes[recipe_of(wildcards)].reads_previous else []
        ),
        previous=lambda wildcards: list(trained(wildcards, before=1).values()) if target(wildcards) else [],
        files=learner_files,
        pool=pool_of_round,
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
        command=train_command,
        target=target,  # Snakemake compares no parameter that depends on the input
        data=subpath(input.manifest, parent=True),
        folder=subpath(output.metrics, parent=True),
        files=checksums(learner_files),
        code=lambda wildcards: code_digest("rounds.train.run", *trained_code(wildcards), without=UNUSED),
    shell:  # also of the rules below
        "lplgrad {params.command} --data {params.data:q} --labeled {input.labeled:q} --checkpoint {input.checkpoint:q} "
        "--seed {wildcards.seed} --settings {params.settings:q} $place --output {params.folder:q} > {log:q} 2>&1"


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
        labeled=rules.start.output.labeled if PERSON else rules.start.output,
        checkpoint=[],
        previous=[],
        files=learner_files,
        pool=rules.start.output.pool if PERSON else [],
        manifest=rules.start.input.manifest,
        arrays=rules.start.input.arrays,
    output:
        **trained_files(f"{ROOT}/{START}/{{recipe}}"),
    log:
        f"{LOGS}/{START}/{{recipe}}/train.log",
    benchmark:
        f"{LOGS}/{START}/{{recipe}}/train.tsv"


use rule train as query with:
    input:
        labeled=labels,
        checkpoint=queried_checkpoint,
        metrics=lambda wildcards: trained(wildcards)["metrics"] if target(wildcards) else [],
        files=query_files,
        names=named(query_files),
        pool=pool_of_round,
        manifest=rules.start.input.manifest,
        arrays=rules.start.input.arrays,
    output:
        scores=f"{ROUND}/scores.csv",
        labeled=f"{ROUND}/to_label.csv" if PERSON else f"{ROUND}/next_labeled.csv",
        timing=f"{ROUND}/query_timing.json",
        settings=f"{ROUND}/query_settings.json",
        test_scores=f"{ROUND}/test_scores.csv",
    log:
        f"{ROUND_LOGS}/query.log",
    benchmark:
        f"{ROUND_LOGS}/query.tsv"
    wildcard_constraints:
        round=str(NEWEST) if NEWEST else "[1-9][0-9]*",
    resources:
        gpu=lambda wildcards: GPU if queried_checkpoint(wildcards) else 0,
    params:
        **settings(LAYOUT.query_settings, "budget", "dataset", "strategy"),
        command=query_command,
        target=target,
        data=subpath(input.manifest, parent=True),
        folder=subpath(output.scores, parent=True),
        files=checksums(query_files),
        code=query_code,


# Models that figures look into: those of the trials and rounds that `model_figures` names (the paper's figures 6 to 8).
use rule train as observe with:
    input:
        labeled=labels,
        checkpoint=lambda wildcards: trained(wildcards)["checkpoint"],
        files=learner_files,
        pool=pool_of_round,
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
    params:
        **settings(LAYOUT.observation_settings),
        command=observe_command,
        target="",
        data=subpath(input.manifest, parent=True),
        folder=subpath(output.features, parent=True),
        files=checksums(learner_files),
        code=lambda wildcards: code_digest("rounds.observe.run", *trained_code(wildcards), without=UNUSED),
