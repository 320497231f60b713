# What follows from what. Every rule calls the command line of the package in src/ (`lplgrad <command> --help` explains
# it). docs/architecture.md explains why things are where they are.
from pathlib import Path

from snakemake.utils import min_version

min_version("9.20")


include: "workflow/rules/common.smk"


configfile: CONFIG


config["shown"] = captions.shown(STUDY, UNAVAILABLE)  # for the report's captions


report: "report/workflow.rst"


include: "workflow/rules/rounds.smk"
include: "workflow/rules/results.smk"


onstart:
    if SERVER:
        fork_server.start(SERVER, logger.warning)
    if LOCAL:
        # The limit on jobs per second makes each pass of the scheduler start a timer for one more pass. The passes add up
        # with the number of jobs, until they occupy a core.
        workflow.scheduler.job_rate_limiter = None


onsuccess:
    warn_of_data()
    tell_person()
    # Progress that is no longer needed and, after the whole study, models that a killed Snakemake left
    ends = {"progress.safetensors": "metrics.json", "query_progress.safetensors": "next_labeled.csv"}
    left = [file for name in ends for file in Path(ROOT).rglob(name) if (file.parent / ends[name]).exists()]
    if not (workflow.dag_settings.targets or workflow.storage_settings.notemp):
        left += LAYOUT.leftover_checkpoints()
    for file in left:
        file.unlink()


onerror:
    warn_of_data()


rule all:
    default_target: True
    input:
        RESULTS,
        rules.measurements.output,
        rules.timings.output,
        PRESENT.missing_results() if workflow.is_main_process else [],
    localrule: True
