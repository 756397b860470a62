"""Typed settings: read from YAML and from `key=value`, checked with messages for people, and named by a hash of their content."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from diffmem.errors import UserError, nearest

__all__ = [
    "config_hash",
    "idle_settings",
    "leaves",
    "load_recipe",
    "merged",
    "override",
    "read_recipe",
    "set_key",
    "settings_table",
    "validated",
]


_Model = TypeVar("_Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Reads keys as they are written: `on`, `0.10` and `010` are names of levels, not True, 0.1 and 8."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}


def _load(text: str) -> Any:
    """Return what YAML says.

    Raises:
        yaml.YAMLError: It is not valid, or has a key twice, so that the first value would be lost.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        _check_keys(node, set())
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _check_keys(node: yaml.Node | None, seen: set[int]) -> None:
    if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
        return
    seen.add(id(node))  # an alias may come back to it
    lines: dict[str, int] = {}
    for key, value in (
        node.value if isinstance(node, yaml.MappingNode) else ((None, one) for one in node.value)
    ):
        if key is not None:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"the key in line {line} is not a word or a number")
            if key.value in lines:
                raise yaml.YAMLError(
                    f"line {line} repeats the key {key.value!r} of line {lines[key.value]}; keep one of them"
                )
            lines[key.value] = line
        _check_keys(value, seen)


def config_hash(content: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that name this content, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _group(annotation: Any) -> type[BaseModel] | None:
    """Return the model that a field holds, also where it may be left out; none if the field is a plain setting."""
    types = [annotation, *get_args(annotation)]
    return next((each for each in types if isinstance(each, type) and issubclass(each, BaseModel)), None)


def _keys_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Return the fields that exist where a validation error points to."""
    fields = model.model_fields
    for part in location:
        inner = _group(fields[part].annotation) if isinstance(part, str) and part in fields else None
        if inner is None:
            break
        fields = inner.model_fields
    return list(fields)


def validated(model: type[_Model], values: Any, where: str) -> _Model:
    """Validate values against a model, with errors for people.

    Args:
        where: Where it was read from, for the message.

    Raises:
        UserError: Names the key, its value and what is allowed; an unknown key suggests the nearest one.
    """
    try:
        found = model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        location = [part for part in first["loc"] if not (isinstance(part, str) and "[" in part)]
        key = ".".join(str(part) for part in location)
        if first["type"] == "extra_forbidden":
            hint = nearest(str(location[-1]), _keys_at(model, location[:-1]))
            raise UserError(f"{where}: unknown key {key!r}.{hint}") from error
        if first["type"] == "missing":
            raise UserError(f"{where}: the key {key!r} is missing.") from error
        message = _message(first["type"], first["msg"], first.get("ctx", {}))
        value = "" if isinstance(first.get("input"), dict) else f" = {first.get('input')!r}"
        raise UserError(
            f"{where}: {key + value + ': ' if key else ''}{message[0].lower() + message[1:]}."
        ) from error
    for key, number in _numbers(found.model_dump()):
        if not math.isfinite(number):
            raise UserError(f"{where}: {key} = {number}: input should be a finite number.")
    return found


def _message(kind: str, text: str, context: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, in words of YAML."""
    if kind in ("tuple_type", "list_type"):
        return "input should be a list, such as [1, 2]"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return "input should be a group of keys"
    if kind == "too_short":
        return f"give {context['min_length']} or more, not {context['actual_length']}"
    if kind == "too_long":
        return f"give {context['max_length']} at most, not {context['actual_length']}"
    return text.removeprefix("Value error, ")


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number among the settings with its key."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        else:
            entries = value if isinstance(value, tuple) else (value,)
            yield from ((f"{prefix}{name}", entry) for entry in entries if isinstance(entry, float))


def _read(path: Path) -> dict[str, Any]:
    """Read a YAML file of keys and values.

    Raises:
        UserError: The file is missing or not such a file.
    """
    try:
        content = _load(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold keys and values, not {type(content).__name__}.")
    return content


def override(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Return the values with `key.key=value` settings applied; a value is read as YAML, so `null` unsets.

    Raises:
        UserError: A setting has no '=' or goes through a key that holds no keys.
    """
    result = copy.deepcopy(values)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UserError(f"Setting {setting!r} must read key=value, for example training.epochs=500.")
        try:
            value = _load(text)
        except yaml.YAMLError as error:
            raise UserError(
                f"Setting {setting!r}: the value is not valid YAML ({' '.join(str(error).split())})."
            ) from error
        set_key(result, key, value, f"Setting {setting!r}")
    return result


def idle_settings(group: BaseModel, prefix: str, names: Sequence[str], why: str) -> list[str]:
    """Return those of these settings that were changed, each with why it has no effect, as sentences without a full stop.

    Args:
        group: Holds them.
        prefix: Of their dotted keys, such as 'training.ema.'.
        names: Its fields.
        why: Such as 'training.ema.mode is mode3'.
    """
    return [
        f"{prefix}{name} = {getattr(group, name)} has no effect: {why}"
        for name in names
        if getattr(group, name) != type(group).model_fields[name].default
    ]


def set_key(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a dotted key in groups of keys; groups that may be left out, and were, are made.

    Args:
        values: The groups, changed in place.
        key: Like 'training.epochs'.
        where: Where the key stands, for the message.

    Raises:
        UserError: The key goes through one that holds no keys.
    """
    *groups, last = key.split(".")
    held = values
    for group in groups:
        if held.get(group) is None:
            held[group] = {}
        held = held[group]
        if not isinstance(held, dict):
            raise UserError(f"{where}: {group!r} is not a group of keys.")
    held[last] = value


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings in groups of keys, with their dotted keys; an empty group is a setting."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def load_recipe(model: type[_Model], path: Path | None, settings: Sequence[str] = ()) -> _Model:
    """Read a recipe. A key `base: other.yaml` starts from that recipe; its path is relative to the file.

    Args:
        path: The YAML file; none for the defaults.
        settings: `key=value` overrides.

    Raises:
        UserError: The file or a key in it is wrong.
    """
    content = {} if path is None else read_recipe(path)
    where = "settings" if path is None else f"{path} with settings" if settings else str(path)
    return validated(model, override(content, settings), where)


def read_recipe(path: Path, visited: frozenset[Path] = frozenset()) -> dict[str, Any]:
    """Return the keys and values of a recipe with those of its bases, not yet checked.

    Args:
        path: The YAML file.
        visited: The recipes that it is a base of.

    Raises:
        UserError: A file cannot be read, is not such a file, or the chain of bases comes back to itself.
    """
    content = _read(path)
    base = content.pop("base", None)
    if base is None:
        return content
    resolved = (path.parent / str(base)).resolve()
    if resolved in visited:
        raise UserError(f"{path}: the chain of bases comes back to {base}.")
    return merged(read_recipe(resolved, visited | {resolved}), content)


def settings_table(model: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str]]:
    """Return (key, default, meaning) of every setting of a model, in order; the meaning ends with the values of a choice."""
    rows: list[tuple[str, str, str]] = []
    for name, field in model.model_fields.items():
        inner = _group(field.annotation)
        if inner is not None:
            rows += settings_table(inner, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else json.dumps(field.default)
            rows.append((prefix + name, default, (field.description or "") + _choices(field)))
    return rows


def _choices(field: FieldInfo) -> str:
    """Return the values of a choice as a sentence; empty if the description has them all, or other values are possible."""
    values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if all(repr(value) in (field.description or "") for value in values):
        return ""
    return f" One of {', '.join(map(str, values))}."


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base with the changes in it; groups of keys are merged, other values replaced."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
