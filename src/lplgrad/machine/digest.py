"""A digest of the code that a job runs, so that a change of behaviour reruns the job and any other edit does not.

Snakemake does not look into the package. Every rule therefore carries, as a parameter, the digest of the definitions
(functions, classes, constants) that its job reaches: those that it names, those that these name, and so on. Comments,
docstrings, annotations of functions, messages and lines of the log do not count, nor do definitions that nothing names.

What a module finds by ``importlib`` is invisible here. The rule names it as a further root.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# Settings reach a job as parameters, with their defaults written out. How they are checked, where files lie, how a
# training resumes, and which GPU it got cannot change a result.
WITHOUT_EFFECT = {
    "cli", "analysis.departures", "study.availability", "study.budgets", "study.jobs", "study.layout", "study.reading",
    "study.settings", "study.validation", "rounds.resume", "rounds.settings", "machine.digest", "machine.errors",
    "machine.leases", "machine.locks", "machine.log", "machine.signals",
}  # fmt: skip
MESSAGES = {"UserError", "say"}  # what these are called with cannot change a result


def code_digest(*roots: str, without: Collection[str] = ()) -> str:
    """Digest of some definitions of the package and of all that they reach.

    Args:
        roots: definitions or whole modules below ``lplgrad``, as ``rounds.train.run`` or ``acquisition.entropy``.
        without: modules that are reached, but not used by the job.
    """
    reached: set[tuple[str, str]] = set()
    waiting = [found for root in roots for found in _resolve(root)]
    while waiting:
        module, name = waiting.pop()
        left_out = module in WITHOUT_EFFECT or module in without or module.partition(".")[0] in without
        if (module, name) not in reached and not left_out:
            reached.add((module, name))
            waiting.extend(_definition(module, name)[1])
    code = "\n".join(f"# {module}.{name}\n{_definition(module, name)[0]}" for module, name in sorted(reached))
    return hashlib.sha256(code.encode()).hexdigest()[:16]


@dataclass
class _Module:
    """The top level of a module."""

    # the statements that bind each name; those with another effect stand under the name ""
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    # what each imported name stands for, also those imported within functions
    imports: dict[str, str] = field(default_factory=dict)


def _resolve(dotted: str) -> list[tuple[str, str]]:
    """Definitions that a name below ``lplgrad`` stands for: one, or all of a module; none if it is no such name."""
    if _path(dotted).exists():
        return [(dotted, name) for name in ("", *_read(dotted).definitions)]
    module, _, name = dotted.rpartition(".")
    return [(module, ""), (module, name)] if module and _path(module).exists() else []


@cache
def _definition(module: str, name: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """The code of a definition, and the definitions that it names itself."""
    read = _read(module)
    code, named = [], set[tuple[str, str]]()
    if name not in read.definitions and name in read.imports:  # handed on by a package
        return "", frozenset(_resolve(read.imports[name].removeprefix("lplgrad.")))
    for statement in read.definitions.get(name, []):
        code.append(ast.unparse(statement))
        for used in _names(statement):
            first, _, rest = used.partition(".")
            if first in read.definitions:
                named.add((module, first))
            elif first in read.imports:
                target = read.imports[first]
                if not target.startswith("lplgrad."):
                    code.append(f"# {first} is {target}")
                    continue
                target = target.removeprefix("lplgrad.")
                attribute = f"{target}.{rest.partition('.')[0]}"
                named.update(_resolve(attribute if rest and _path(target).exists() else target))
    return "\n".join(dict.fromkeys(code)), frozenset(named)


def _names(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement uses, each with the attributes that follow it directly."""
    inner: set[ast.AST] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Attribute) and node not in inner:
            parts = [node.attr]
            value = node.value
            while isinstance(value, ast.Attribute):
                inner.add(value)
                parts.append(value.attr)
                value = value.value
            if isinstance(value, ast.Name):
                inner.add(value)
                yield ".".join([value.id, *reversed(parts)])
        elif isinstance(node, ast.Name) and node not in inner:
            yield node.id


@cache
def _read(module: str) -> _Module:
    """A module without docstrings, annotations of functions, and imports that only types need."""
    tree = ast.parse(_path(module).read_text(encoding="utf-8"))
    read = _Module()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MESSAGES:
            node.args, node.keywords = [], []
    body = []
    for node in tree.body:
        types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        body += node.orelse if types and isinstance(node, ast.If) else [node]
    tree.body = body
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{_path(module)}: line {node.lineno}: write the whole name of the imported module")
            read.imports.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
        elif isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                if first == "lplgrad" and not alias.asname:
                    raise ValueError(f"{_path(module)}: line {node.lineno}: write from ... import, or import ... as")
                read.imports[alias.asname or first] = alias.name if alias.asname else first
    for statement in tree.body:
        if lazily := _lazy_imports(statement):
            read.imports.update(lazily)
        elif not isinstance(statement, ast.Import | ast.ImportFrom):
            for name in _bound(statement):
                read.definitions.setdefault(name, []).append(statement)
    for statement in tree.body:  # a decorator of the package may register what it decorates
        for decorator in getattr(statement, "decorator_list", []):
            names = {node.id for node in ast.walk(decorator) if isinstance(node, ast.Name)}
            own = {name for name in names if read.imports.get(name, "").startswith("lplgrad.")}
            if own or names & read.definitions.keys():
                read.definitions.setdefault("", []).append(statement)
    return read


def _lazy_imports(statement: ast.stmt) -> dict[str, str]:
    """What a statement like ``torch, F = lazy("torch"), lazy("torch.nn.functional")`` imports by which name."""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return {}
    target, value = statement.targets[0], statement.value
    names = target.elts if isinstance(target, ast.Tuple) else [target]
    calls = value.elts if isinstance(value, ast.Tuple) else [value]
    found = {}
    for name, call in zip(names, calls, strict=False):
        lazily = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "lazy"
        if lazily and isinstance(call, ast.Call) and isinstance(name, ast.Name):
            found[name.id] = str(ast.literal_eval(call.args[0]))
    return found


def _bound(statement: ast.stmt) -> list[str]:
    """The names that a statement at the top of a module binds, and "" if it may have an effect besides."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    stored = [node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return stored if stored and isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign) else [*stored, ""]


def _path(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
