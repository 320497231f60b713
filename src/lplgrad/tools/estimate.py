"""Estimate what a study costs before it is run: hours and disk, from measured rates."""

from __future__ import annotations

import argparse

from lplgrad.study.availability import check_prepared_datasets
from lplgrad.study.layout import Layout
from lplgrad.study.reading import read_study
from lplgrad.tools.costs import data_bytes, estimate, peak_bytes, read_rates
from lplgrad.tools.rates import measure_rates


def run(arguments: argparse.Namespace) -> None:
    """Read, multiply and print."""

    study = read_study(arguments.files)
    check_prepared_datasets(study)
    layout = Layout(study)
    rates = measure_rates(layout) if arguments.measure else read_rates(arguments.rates)
    costs = estimate(layout, rates)
    print(
        f"{'budget':10} {'data set':12} {'trainings':>9} {'image-epochs':>14} {'training h':>11} {'queries h':>10}",
        end="",
    )
    print(f" {'starting h':>10} {'GB':>7}")
    for cost in costs:
        hours = [value / 3600 for value in (cost.training_seconds, cost.query_seconds, cost.start_seconds)]
        print(f"{cost.budget:10} {cost.dataset:12} {cost.trainings:9,} {cost.image_epochs:14,}", end="")
        print(f" {hours[0]:11,.2f} {hours[1]:10,.2f} {hours[2]:10,.2f} {cost.final_bytes / 1e9:7.2f}")
    total = sum(cost.seconds for cost in costs) / 3600
    longest = max(cost.longest_seconds for cost in costs) / 3600
    print(f"\nimage-epochs    {sum(cost.image_epochs for cost in costs):,}")
    print(f"jobs            {sum(cost.trainings + cost.queries for cost in costs):,} trainings and queries")
    print(f"hours           {total:,.2f} one job after another; those of a GPU where the rates are a GPU's")
    print(f"at least        {max(total / arguments.jobs, longest):,.2f} h with {arguments.jobs} at a time")
    print(f"disk at the end {sum(cost.final_bytes for cost in costs) / 1e9:,.2f} GB of results")
    print(f"disk at most    {peak_bytes(costs, arguments.jobs) / 1e9:,.2f} GB with temporary checkpoints")
    print(f"data sets       {data_bytes(layout) / 1e9:,.2f} GB, without downloads")
