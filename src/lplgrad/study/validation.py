"""Strict settings: the base of every settings class, and the one line that reports a mistake."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from lplgrad.machine.errors import UserError, nearest
from lplgrad.machine.registry import Registry

# Folders of the layout: a strategy's folder would collide with the one, a data set's with the other.
RESERVED_NAMES = {"start", "downloads"}


def wrong(problem: str, key: str = "") -> PydanticCustomError:
    """Return an error for a validator to raise, about what it checks or about ``key`` below it."""
    return PydanticCustomError("problem", "{problem}", {"problem": problem, "key": key})


def _name(value: object) -> object:
    """Check a name, which becomes a folder and a word in a shell command."""
    if isinstance(value, str) and (not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", value) or value in RESERVED_NAMES):
        letters = "use letters, digits, '_' and '-', a letter first (but not start or downloads)"
        raise wrong(f"{value!r} cannot be a name: {letters}")
    return value


def _scientific(value: object) -> object:
    """Read ``5e-4`` as a number, although YAML 1.1 wants ``5.0e-4``."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def from_here(path: str) -> str:
    """A path as pathlib writes it, and from the working directory if it lies below: Snakemake compares text."""
    given = Path(path).expanduser()
    for folder in (given, *given.parents):
        if folder.exists() and folder.samefile("."):
            return str(given.relative_to(folder))
    return str(given)


Name = Annotated[str, BeforeValidator(_name)]
Number = Annotated[float, BeforeValidator(_scientific), Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Title = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# The path of a file that results depend on. It becomes an input of every rule that receives the option, and the
# settings next to a result contain its checksum.
_INPUT_FILE = object()
InputFile = Annotated[
    str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f{}]*$"), AfterValidator(from_here), _INPUT_FILE
]


def known(kind: str, registry: Registry[Any]) -> AfterValidator:
    """Check that a value is the name of an entry."""

    def check(value: str) -> str:
        names = registry.names()
        if value not in names:
            raise wrong(f"unknown {kind} {value!r} ({nearest(value, names)})")
        return value

    return AfterValidator(check)


class Settings(BaseModel):
    """Settings that refuse unknown keys and wrong types, and cannot be changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_by_alias=True, validate_by_name=True)
    # Keys of earlier versions, and what to write instead of each, given its value
    replaced: ClassVar[Mapping[str, Callable[[Any], str]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: object) -> object:
        options = cls.option_keys(values) if isinstance(values, Mapping) else None
        if isinstance(values, Mapping):
            for key in cls.replaced.keys() & values.keys():
                raise wrong(cls.replaced[key](values[key]), key)
        if isinstance(values, Mapping) and options is not None:
            known = {field.alias or name for name, field in cls.model_fields.items()} | options
            for key in values:
                if key not in known and key not in cls.model_fields:
                    raise wrong(f"unknown key {key!r} ({nearest(str(key), known)})")
        return values

    @classmethod
    def option_keys(cls, values: Mapping[str, Any]) -> set[str] | None:
        """The keys that may stand beside the class's own; None if they are not known yet."""
        return set()


def refuse_changed(settings: Settings, because: str, *names: str) -> None:
    """Raise an error for a validator if a setting that has no effect differs from its default."""
    for name in names:
        default = type(settings).model_fields[name].default
        if getattr(settings, name) != default:
            shown = "null" if default is None else default
            raise wrong(f"{name} has no effect with {because}; remove it, or set {name}: {shown}")


def input_files(settings: Settings) -> list[str]:
    """List the files that options of the type ``InputFile`` name."""
    named = [
        getattr(settings, name)
        for name, field in type(settings).model_fields.items()
        if any(
            _INPUT_FILE in (one, *getattr(one, "__metadata__", ()))
            for one in (*field.metadata, *get_args(field.annotation))
        )
    ]
    return [path for path in named if path is not None]


class NoOptions(Settings):
    """No options: of a recipe, an acquisition function, a backbone or a source, or no augmentation."""


class Row(Settings):
    """A row that names an entry of a registry and carries that entry's own options beside its keys.

    All options are written out with their defaults, so that an explicit default differs from none in nothing.
    """

    model_config = ConfigDict(extra="allow")
    function_key: ClassVar[str]  # the key that names the entry
    registry: ClassVar[Registry[Any]]

    @classmethod
    def option_keys(cls, values: Mapping[str, Any]) -> set[str] | None:
        """The options of the entry that the row names."""
        function = str(values.get(cls.function_key, ""))
        if function not in cls.registry.names():
            return None
        fields = cls.registry.load(function).options.model_fields
        return {field.alias or name for name, field in fields.items()}

    @property
    def options(self) -> dict[str, Any]:
        """The entry's options: the keys that are not the row's own."""
        return dict(self.model_extra or {})

    @property
    def checked_options(self) -> Settings:
        """The same as the entry takes them."""
        kind: type[Settings] = self.registry.load(getattr(self, self.function_key)).options
        return kind.model_validate(self.options)

    @property
    def label(self) -> str:
        """The entry's name with the options that are not the default, for people."""
        name = getattr(self, self.function_key)
        changed = ", ".join(f"{key}: {value}" for key, value in self.changed_options.items())
        return f"{name} ({changed})" if changed else str(name)

    @property
    def changed_options(self) -> dict[str, Any]:
        """The options that are not the default."""
        fields = self.registry.load(getattr(self, self.function_key)).options.model_fields
        defaults = {field.alias or key: field.default for key, field in fields.items()}
        return {key: value for key, value in self.options.items() if value != defaults[key]}

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        try:
            checked = self.checked_options.model_dump(by_alias=True)
        except ValidationError as error:
            key, problem = first_problem(error)
            raise wrong(problem, key) from None
        assert self.model_extra is not None
        self.model_extra.clear()
        self.model_extra.update(checked)
        return self


# The errors of pydantic that are clearer with the offending value.
_WITH_VALUE = {
    "bool_type", "finite_number", "float_type", "greater_than", "greater_than_equal", "int_from_float", "int_type",
    "less_than", "less_than_equal", "literal_error", "string_pattern_mismatch", "string_type",
}  # fmt: skip


# What pydantic adds to the place of an error: the type that was tried
_OF_UNION = re.compile(r"(constrained-|literal\[|function-).*|int|float|str|bool")


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The first error of a validation: the dotted key, and what is wrong with its value."""
    first, *others = error.errors(include_url=False)
    place = [str(part) for part in first["loc"] if part != "[key]"]
    message = first["msg"]
    if place and _OF_UNION.fullmatch(place[-1]):  # a value that may be of several types has an error for each
        ways = [one["msg"] for one in others if one["loc"][:-1] == first["loc"][:-1]]
        message = " or ".join([message, *(way.removeprefix("Input should be ") for way in ways)])
        place.pop()
    if first["type"] == "problem":
        place += filter(None, [first["ctx"]["key"]])
    elif first["type"] == "missing":
        message = "is missing"
    else:
        message = message[:1].lower() + message[1:]
        if first["type"] in _WITH_VALUE:
            message += f", not {first['input']!r}"
    return ".".join(place), message


SettingsT = TypeVar("SettingsT", bound=Settings)


def parse(kind: type[SettingsT], values: object, where: str) -> SettingsT:
    """Check one mapping of settings. Raise UserError with ``where``, the key, and what is wrong with it."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected keys and values, not {type(values).__name__}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        place, message = first_problem(error)
        raise UserError(f"{where}: {place}: {message}" if place else f"{where}: {message}") from None


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` over ``base``: mappings are merged key by key, everything else is replaced (Snakemake's rule)."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below if isinstance(below, Mapping) else {}, value) if isinstance(value, Mapping) else value
    return merged


def words(settings: Mapping[str, Any], above: str = "") -> list[str]:
    """Write settings as words ``key=value`` for a command line, with dotted keys and JSON values."""
    found = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found += words(value, f"{above}{key}.")
        else:
            found.append(f"{above}{key}={as_json(value)}")
    return found


def as_json(value: object) -> str:
    """Write JSON that YAML can read, without the mark that would end a script of the report's page."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def parse_settings(kind: type[SettingsT], given: Iterable[str], option: str = "--settings") -> SettingsT:
    """Check settings from the command line, as ``parse`` does: words of the form of ``words``, or mappings in YAML."""
    values: dict[str, Any] = {}
    keys = set()
    for word in given:
        if pair := re.fullmatch(r"([\w-]+(?:\.[\w-]+)*)=(.*)", word, re.DOTALL):
            key, layer = pair[1], _read_value(pair[2], f"{option}: {pair[1]}")
            if key in keys:
                raise UserError(f"{option}: {key} is given twice")
            keys.add(key)
            for part in reversed(key.split(".")):
                layer = {part: layer}
        else:
            layer = read_yaml(word, option) or {}
        if not isinstance(layer, Mapping):
            raise UserError(f"{option}: expected keys and values, not {word!r}")
        values = merge(values, layer)
    return parse(kind, values, option)


def _read_value(text: str, where: str) -> Any:
    try:
        return json.loads(text)  # YAML folds some letters of a JSON string, and takes 1e-05 for one
    except (ValueError, RecursionError):
        return read_yaml(text, where)


def first_difference(found: object, expected: object, key: str = "") -> str:
    """The first dotted key whose value differs from what is expected, with both values; empty if there is none."""
    if found == expected:
        return ""
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        names = {**expected, **found}
        below = (first_difference(found.get(name), expected.get(name), f"{key}.{name}".lstrip(".")) for name in names)
        return next(filter(None, below), "")
    return f"{key} is {json.dumps(found)} there, but {json.dumps(expected)} in the study"


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML whose mappings name no key twice; PyYAML silently takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and str(key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


MOST_VALUES = 1_000_000  # of a configuration; a few aliases of aliases make billions


def _written_out(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values a parsed node stands for, its aliases written out."""
    if node is not None and id(node) not in known:
        below = [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else []
        below += node.value if isinstance(node, yaml.SequenceNode) else []
        known[id(node)] = 1  # for an alias within what it stands for
        known[id(node)] = 1 + sum(_written_out(child, known) for child in below)
    return known.get(id(node), 0)


def read_yaml(text: str, where: str) -> Any:
    """Parse YAML (or JSON) safely. Raise UserError with ``where`` and the line that does not parse."""
    try:
        loader = _UniqueKeyLoader(text)  # a SafeLoader
        node = loader.get_single_node()
        if _written_out(node, {}) > MOST_VALUES:
            raise UserError(f"{where}: more than {MOST_VALUES:,} values, its aliases written out")
        return None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"{where}: {line}{error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
