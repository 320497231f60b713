# Images, brought once into the form that all jobs read.


rule prepare:
    output:
        manifest=f"{DATA}/{{dataset}}/dataset.json",
        provenance=f"{DATA}/{{dataset}}/provenance.json",
        arrays=[f"{DATA}/{{dataset}}/{array}.npy" for array in ARRAYS],
    log:
        LAYOUT.preparation_log("{dataset}"),
    benchmark:
        f"{LOGS}/{{dataset}}/prepare.tsv"
    localrule: True  # a cluster's nodes may have no network
    conda:
        ENVIRONMENT
    threads: 8
    params:
        **settings(LAYOUT.source_settings, "dataset"),
        downloads=f"{DATA}/downloads",
        folder=subpath(output.manifest, parent=True),
        code=lambda wildcards: code_digest(
            "datasets.prepared.prepare.run", f"datasets.{STUDY.datasets[wildcards.dataset].source}.SOURCE"
        ),
    shell:
        "lplgrad prepare --settings {params.settings:q} --downloads {params.downloads:q} --threads {threads} "
        "--output {params.folder:q} > {log:q} 2>&1"
