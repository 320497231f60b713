"""A digest of the code that a job runs, so that a change of behaviour reruns it, and a change of comments does not.

Snakemake does not look into the package; every rule therefore carries the digest of the modules it runs, and of those
they import, as a parameter.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
# Settings reach a job as parameters, with their defaults filled in; how they are checked or told of changes no result,
# nor does the layout, whose paths are the rules' own. Where a training stopped and went on again, and on which card,
# neither.
WITHOUT_EFFECT = {
    "cli", "code_digest", "configuration", "errors", "interruption", "leases", "locks", "progress", "resuming",
    "round_settings", "settings", "study", "validation", "commands.common",
}  # fmt: skip


def code_digest(*modules: str, without: Collection[str] = ()) -> str:
    """Digest of some modules of the package and of all modules of it that they import, at the top or in a function.

    Args:
        modules: names below ``lplgrad``, as ``training`` or ``acquisition.entropy``.
        without: modules that are imported, but not used by the job.
    """
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found and module not in WITHOUT_EFFECT and module not in without:
            found.add(module)
            waiting.extend(_read(module)[1])
    code = "\n".join(f"# {module}\n{_read(module)[0]}" for module in sorted(found))
    return hashlib.sha256(code.encode()).hexdigest()[:16]


@cache
def _read(module: str) -> tuple[str, frozenset[str]]:
    """A module's code without comments and docstrings, and the modules of the package that it imports."""
    tree = ast.parse(_path(module).read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            imported.add(node.module)
            imported.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    names = (name.removeprefix("lplgrad.") for name in imported if name.startswith("lplgrad."))
    return ast.unparse(tree), frozenset(name for name in names if _path(name).exists())


def _path(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
