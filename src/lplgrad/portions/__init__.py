"""A study in portions, on a borrowed machine that has PyTorch, but neither the other packages nor a network.

::

    python -m lplgrad.portions pack studies/mine.yaml              # here: what the other machine lacks, in .portion/
    PYTHONPATH=src python3 -m lplgrad.portions run --output out    # there, in a copy of the project with .portion/
    python -m lplgrad.portions merge out/*.tar.xz                  # here: into results/<study>/; then pack again

A portion is whole chains (a strategy of a seed), lowest seed first: checkpoints are too large to travel. An archive a
chain comes back, without checkpoints. All is called in the project's folder; docs/portions.md tells more.

Until ``run`` has installed what came along, nothing but the standard library is imported there.
"""
