"""Dataclass, then YAML, then command line: the last one to speak wins, and nobody can say what the class doesn't know.

A config is a frozen dataclass that stands beside the code that it configures. A YAML file holds what differs from the
defaults. Where a field may be one of several dataclasses, the key `kind` tells which; without it, it is the default's.

Not jsonargparse: there `--data.kind=images --data.image_size=64` is the first class of the union if that has an
`image_size` too, without a word, and an unknown key inside a union reports every class that didn't fit it.
"""

import dataclasses
import difflib
import functools
import math
import operator
import os
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

Config = TypeVar("Config")

# YAML 1.1, which PyYAML speaks, reads 1e-3 as a string: it wants 1.0e-3.
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


class _Text(str):
    """A value from the command line: it is YAML, except where a string is wanted, which needs no quotes there."""


class _Loader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys in silence; in a config that is always a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_config(
    cls: type[Config] | tuple[type[Config], ...], path: Path | None, overrides: Sequence[str] = ()
) -> Config:
    """Reads a config from a YAML file and the command line.

    Args:
        cls: A frozen dataclass, or several, of which the file's top-level `kind` chooses one.
        path: The YAML file; None for the defaults.
        overrides: `model.depth=8`, `--model.depth=8` or `--model.depth 8`; these win over the file.

    Returns:
        The checked config, with every default filled in.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A key is unknown or missing, or a value is of the wrong type or refused by its dataclass.
    """
    tree: Any = {}
    where = [str(path)] if path is not None else []
    try:
        if path is not None:
            tree = _parse(_read(path))
            tree = {} if tree is None else tree  # a file of comments only
            if not isinstance(tree, dict):
                raise ValueError(f"got {tree!r}, expected `key: value` lines")
        for key, text in _split_overrides(overrides):
            _put(tree, key, _Text(text))
        where += ["command line"] if overrides else []
        return from_dict(cls, tree)
    except ValueError as error:
        raise ValueError(f"{' + '.join(where)}: {error}" if where else str(error)) from error


def from_dict(cls: type[Config] | tuple[type[Config], ...], tree: Mapping) -> Config:
    """Builds a config from plain values, the inverse of `to_dict`.

    Args:
        cls: A frozen dataclass, or several, of which the key `kind` chooses one.
        tree: Nested values by field name; what is missing is taken from the defaults.

    Returns:
        The checked config.

    Raises:
        ValueError: A key is unknown or missing, or a value is of the wrong type or refused by its dataclass.
    """
    annotation = functools.reduce(operator.or_, cls) if isinstance(cls, tuple) else cls
    return _build(annotation, tree, key="", default=None)


def to_dict(config: Any) -> dict[str, Any]:
    """The config as nested dicts, lists and scalars, ready for YAML or JSON."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config) if field.init}


def save_config(config: Any, path: Path) -> None:
    """Writes the config with every default spelt out, so that a run still says what it was when defaults change.

    Args:
        config: An instance of a config dataclass.
        path: The YAML file; it is replaced whole, so that a reader never sees half of one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    text = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=120)
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = ", ".join(sorted(str(file) for file in path.parent.glob("*.yaml")))
        hint = f"there are {beside}" if beside else "give the path of a YAML file, such as one of configs/"
        raise FileNotFoundError(f"no config file {path}: {hint}") from None


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506, a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {error}") from error


def _split_overrides(overrides: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    rest = iter(overrides)
    for argument in rest:
        key, equals, text = argument.removeprefix("--").partition("=")
        if not equals and argument.startswith("--"):
            text = next(rest, "--")
            equals = not text.startswith("--")
        if not equals or not key:
            raise ValueError(f"got {argument!r}, expected key=value, --key=value or --key value")
        pairs.append((key, text))
    return pairs


def _put(tree: Any, key: str, value: Any) -> None:
    *parents, name = key.split(".")
    for parent in parents:
        below = tree.get(parent)
        if isinstance(below, _Text):  # `data={kind: images}` came before `data.path=x`
            below = _parse(below)
        tree[parent] = below if isinstance(below, dict) else {}
        tree = tree[parent]
    tree[name] = value


def _is_config(annotation: Any) -> bool:
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def _describe(annotation: Any) -> str:
    """What a field accepts, in the words of an error message."""
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_describe(member) for member in get_args(annotation))
    if get_origin(annotation) is Literal:
        return " or ".join(repr(choice) for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        items = get_args(annotation)
        if items[-1] is Ellipsis:
            return f"a list of {_describe(items[0])}"
        return f"a list of {len(items)}: {', '.join(_describe(item) for item in items)}"
    if _is_config(annotation):
        return f"the keys of {annotation.__name__}"
    return "null" if annotation is type(None) else annotation.__name__


def _build(annotation: Any, value: Any, key: str, default: Any) -> Any:
    """The value as the annotation wants it; `default` is what a partial dataclass is completed from."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _build_union(annotation, value, key, default)
    if isinstance(value, _Text) and annotation is not str:
        value = str(value) if value in get_args(annotation) else _parse(value)  # Literal["off"], not false
    if _is_config(annotation) and isinstance(value, Mapping):
        return _build_dataclass(annotation, value, key, default)
    if origin is tuple and isinstance(value, list | tuple):
        items = get_args(annotation)
        items = (items[0],) * len(value) if items[-1] is Ellipsis else items
        if len(items) == len(value):
            pairs = zip(items, value, strict=True)
            return tuple(_build(item, part, f"{key}[{i}]", None) for i, (item, part) in enumerate(pairs))
    if origin is Literal:
        for choice in get_args(annotation):
            if type(choice) is type(value) and choice == value:
                return choice
    if annotation is type(None) and value is None:
        return None
    if annotation is str and isinstance(value, str):
        return str(value)
    if annotation is Path and isinstance(value, str):
        return Path(value)
    if annotation is bool and isinstance(value, bool):
        return value
    if annotation is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if annotation is float and not isinstance(value, bool):
        if isinstance(value, int | float) or (isinstance(value, str) and _FLOAT.fullmatch(value)):
            if math.isfinite(float(value)):
                return float(value)
        if isinstance(value, int | float):
            raise ValueError(f"{key}: got {value!r}, expected a finite float")
    raise ValueError(f"{key}: got {value!r}, expected {_describe(annotation)}")


def _build_union(annotation: Any, value: Any, key: str, default: Any) -> Any:
    members = get_args(annotation)
    parsed = _parse(value) if isinstance(value, _Text) else value
    if parsed is None and type(None) in members:
        return None
    configs = [member for member in members if _is_config(member)]
    if configs and isinstance(parsed, Mapping):
        return _build(_choose(configs, parsed, key, default), parsed, key, default)
    for member in members:
        try:
            return _build(member, value, key, default)
        except ValueError:
            continue
    raise ValueError(f"{key}: got {parsed!r}, expected {_describe(annotation)}")


def _choose(configs: list[type], value: Mapping, key: str, default: Any) -> type:
    """The one of several dataclasses that the key `kind` names."""
    if len(configs) == 1:
        return configs[0]
    if "kind" not in value and type(default) in configs:
        return type(default)
    kinds = {config.__dataclass_fields__["kind"].default: config for config in configs}
    assert len(kinds) == len(configs), f"{configs} need a `kind` each"
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        got = f"got {str(kind)!r}" if "kind" in value else "missing"
        raise ValueError(f"{_join(key, 'kind')}: {got}, expected {' or '.join(map(repr, kinds))}")
    return kinds[str(kind)]


def _build_dataclass(cls: type, tree: Mapping, key: str, default: Any) -> Any:
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for name in tree:
        if name not in fields:
            nearest = difflib.get_close_matches(str(name), fields, n=1, cutoff=0)
            hint = f"the nearest is {_join(key, nearest[0])!r}" if nearest else "it has none"
            raise ValueError(f"{_join(key, name)}: got {tree[name]!r}, but {cls.__name__} has no such key; {hint}")
    values = {}
    for name, field in fields.items():
        missing = False
        if type(default) is cls:
            base = getattr(default, name)
        elif field.default_factory is not dataclasses.MISSING:
            base = field.default_factory()
        else:
            base, missing = field.default, field.default is dataclasses.MISSING
        if name in tree:
            values[name] = _build(hints[name], tree[name], _join(key, name), None if missing else base)
        elif missing:
            raise ValueError(f"{_join(key, name)}: missing, expected {_describe(hints[name])}")
        else:
            values[name] = base
    try:
        return cls(**values)
    except ValueError as error:  # from its __post_init__, which doesn't know where in the config it stands
        raise ValueError(f"{key}: {error}" if key else str(error)) from error


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)
