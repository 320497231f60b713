# The labels of a study that a person labels (docs/labeling.md). Only the images that a round begins with are its inputs:
# a person's folder and tables change all the time, and a finished round does not depend on that.
# What a person has labelled is history: no change of code or settings makes a finished label file, or the batch that it
# answers, anew. The constraints therefore leave the rules only what is still missing.
ANSWERS = LAYOUT.answers(PERSON)


# The labels of round 1, which are those in the folder.
rule start:
    input:
        manifest=f"{DATA}/{{dataset}}/dataset.json",
        arrays=ancient([f"{DATA}/{{dataset}}/{array}.npy" for array in ARRAYS]),
    output:
        labeled=f"{ROOT}/{START}/labeled.csv",
        pool=f"{ROOT}/{START}/pool.json",
    log:
        f"{LOGS}/{START}/start.log",
    benchmark:
        f"{LOGS}/{START}/start.tsv"
    wildcard_constraints:
        dataset="(?!)" if STARTED else PERSON,
    localrule: True  # a cluster's nodes may not have the images
    conda:
        ENVIRONMENT
    threads: 8
    params:
        data=subpath(input.manifest, parent=True),
        answers=ANSWERS,
    shell:
        'lplgrad answers --data {params.data:q} --round 1 --answers {params.answers:q} "${{person[@]}}" --threads {threads} '
        "--output {output.labeled:q} {output.pool:q} > {log:q} 2>&1"


# The labels of a further round. The folder and the tables are read when the job runs, and are no inputs.
rule answers:
    input:
        batch=f"{ROUND}/to_label.csv",
        labeled=labels,
        pool=pool_of_round,
        manifest=rules.start.input.manifest,
        arrays=rules.start.input.arrays,
    output:
        labeled=f"{ROUND}/next_labeled.csv",
        pool=f"{ROUND}/next_pool.json",
    log:
        f"{ROUND_LOGS}/answers.log",
    benchmark:
        f"{ROUND_LOGS}/answers.tsv"
    wildcard_constraints:
        round=(str(NEWEST - 1) if BEGINS else "(?!)") if NEWEST else "[1-9][0-9]*",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 8
    params:
        number=lambda wildcards: int(wildcards.round) + 1,
        data=subpath(input.manifest, parent=True),
        answers=ANSWERS,
    shell:
        'lplgrad answers --data {params.data:q} --round {params.number} --answers {params.answers:q} "${{person[@]}}" '
        "--labeled {input.labeled:q} --pool {input.pool:q} --batch {input.batch:q} --threads {threads} "
        "--output {output.labeled:q} {output.pool:q} > {log:q} 2>&1"
