"""Recipes: a study as typed settings, read from YAML and from `key=value` settings on the command line."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from diffmem.errors import UserError, nearest
from diffmem.models.config import ModelConfig
from diffmem.sampling.config import SamplerConfig
from diffmem.training.config import TrainingConfig

__all__ = [
    "DataConfig",
    "MeasureConfig",
    "StudyRecipe",
    "TrainRecipe",
    "config_hash",
    "load_recipe",
    "merged",
    "override",
    "read_recipe",
    "set_key",
    "settings_table",
    "validated",
]

_Model = TypeVar("_Model", bound=BaseModel)


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MixtureConfig(_Config):
    """A second source, of which a share of each training set is taken."""

    source: str = Field(description="Like data.source.")
    share: float = Field(ge=0, le=1, description="Share of the images that come from the second source.")
    classes: tuple[str | int, ...] | None = Field(None, description="Classes to keep of it.")
    synsets: str | None = Field(
        None, description="'dogs', or a file of WordNet ids: classes to take of an ImageNet folder."
    )
    images: int | None = Field(
        None, ge=1, description="How many images are read of it, spread over its synsets; all if not given."
    )


class DuplicationConfig(_Config):
    """Copies of some training images."""

    share: float = Field(gt=0, le=1, description="Share of the images that are copied.")
    copies: int = Field(ge=2, description="How often each of them occurs.")


class DataConfig(_Config):
    """The data distribution P: where images come from, how training and held-out sets are drawn."""

    source: str = Field(description="'digits', or the path of an archive, folder, zip, npz or IDX file.")
    resolution: int | None = Field(
        None, ge=1, description="Side of the images in pixels; as they are if not given."
    )
    gray: bool = Field(False, description="Convert to grey.")
    classes: tuple[str | int, ...] | None = Field(
        None, description="Classes to keep, by name or number; a single number keeps the first so many."
    )
    selection: Literal["balanced", "first", "random"] = Field(
        "balanced", description="How training sets are drawn; all are nested."
    )
    seed: int = Field(0, ge=0, description="Seed of random selections and of the held-out images.")
    mixture: MixtureConfig | None = None
    labels: Literal["none", "true", "random", "unique"] = Field(
        "none",
        description="Condition the model on nothing, on the true labels, on random ones, or on one for each image.",
    )
    label_classes: int | None = Field(None, ge=1, description="Number of classes of random labels.")
    duplication: DuplicationConfig | None = None
    heldout: int | None = Field(
        None,
        ge=1,
        description="Images kept apart for the null rate: from the test split if heldout_split is 'test'.",
    )
    heldout_split: Literal["train", "test"] = Field(
        "train", description="Where the held-out images come from."
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _yes_or_no(cls, value: Any) -> Any:
        return {True: "true", False: "none"}.get(value, value) if isinstance(value, bool) else value

    @field_validator("classes", mode="before")
    @classmethod
    def _first_classes(cls, value: Any) -> Any:
        return tuple(range(value)) if isinstance(value, int) and value > 0 else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.labels == "random") != (self.label_classes is not None):
            raise ValueError(
                "random labels need label_classes, their number of classes, and other labels must not have it"
                f" (labels is {self.labels!r}, label_classes is {self.label_classes})"
            )
        return self


class MeasureConfig(_Config):
    """What is measured at each evaluation point, and when a run counts as memorizing."""

    samples: int = Field(
        10_000, ge=1, description="Images generated at each evaluation point: seeds 0, 1, 2, ..."
    )
    threshold: float = Field(1 / 3, gt=0, lt=1, description="A sample is memorized if d1 / d2 is below this.")
    epsilon: float = Field(0.1, gt=0, lt=1, description="EMM is the largest size with R_mem >= 1 - epsilon.")
    frechet: str | None = Field(
        None,
        description="Also a Frechet distance to the training images: 'pixels', 'inception' or a TorchScript file.",
    )


class TrainRecipe(_Config):
    """One training: the model M and the procedure T."""

    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()


class StudyRecipe(TrainRecipe):
    """A study over training-set sizes: everything but where it is stored."""

    title: str = Field("Study", description="Heading of the report.")
    data: DataConfig
    sizes: tuple[int, ...] = Field(min_length=1, description="Numbers of training images.")
    seeds: tuple[int, ...] = Field(
        (0,), min_length=1, description="Seeds; each size is trained once with each."
    )
    sampling: SamplerConfig = SamplerConfig()
    measure: MeasureConfig = MeasureConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for size in self.sizes:
            if size < 2:
                raise ValueError(
                    f"a size of {size} cannot be measured: the rule compares the two nearest training images;"
                    " use 2 or more"
                )
        for name in ("sizes", "seeds"):
            values: Sequence[int] = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} repeats a value: {list(values)}")
        return self


def config_hash(content: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that name this content, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _group(annotation: Any) -> type[BaseModel] | None:
    """Return the model that a field holds, also where it may be left out; none if the field is a plain setting."""
    kinds = [annotation, *get_args(annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _keys_at(kind: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Return the fields that exist where a validation error points to."""
    fields = kind.model_fields
    for part in location:
        inner = _group(fields[part].annotation) if isinstance(part, str) and part in fields else None
        if inner is None:
            break
        fields = inner.model_fields
    return list(fields)


def validated(kind: type[_Model], values: Any, where: str) -> _Model:
    """Validate values against a model, with errors for people.

    Args:
        kind: The model.
        values: What was read.
        where: Where it was read from, for the message.

    Raises:
        UserError: Names the key, its value and what is allowed; an unknown key suggests the nearest one.
    """
    try:
        found = kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        location = [part for part in first["loc"] if not (isinstance(part, str) and "[" in part)]
        key = ".".join(str(part) for part in location)
        if first["type"] == "extra_forbidden":
            hint = nearest(str(location[-1]), _keys_at(kind, location[:-1]))
            raise UserError(f"{where}: unknown key {key!r}.{hint}") from error
        if first["type"] == "missing":
            raise UserError(f"{where}: the key {key!r} is missing.") from error
        message = first["msg"].removeprefix("Value error, ")
        value = "" if isinstance(first.get("input"), dict) else f" = {first.get('input')!r}"
        raise UserError(
            f"{where}: {key + value + ': ' if key else ''}{message[0].lower() + message[1:]}."
        ) from error
    for key, number in _numbers(found.model_dump()):
        if not math.isfinite(number):
            raise UserError(f"{where}: {key} = {number}: input should be a finite number.")
    return found


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
        content = yaml.safe_load(path.read_text("utf-8"))
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
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"Setting {setting!r}: the value is not valid YAML.") from error
        set_key(result, key, value, f"Setting {setting!r}")
    return result


def set_key(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a dotted key in groups of keys; groups that may be left out, and were, are made.

    Args:
        values: The groups, changed in place.
        key: Like 'training.epochs'.
        value: Its value.
        where: Where the key stands, for the message.

    Raises:
        UserError: The key goes through one that holds no keys.
    """
    *groups, last = key.split(".")
    place = values
    for group in groups:
        if place.get(group) is None:
            place[group] = {}
        place = place[group]
        if not isinstance(place, dict):
            raise UserError(f"{where}: {group!r} is not a group of keys.")
    place[last] = value


def load_recipe(kind: type[_Model], path: Path | None, settings: Sequence[str] = ()) -> _Model:
    """Read a recipe. A key `base: other.yaml` starts from that recipe; its path is relative to the file.

    Args:
        kind: `StudyRecipe` or `TrainRecipe`.
        path: The YAML file; none for the defaults.
        settings: `key=value` overrides.

    Raises:
        UserError: The file or a key in it is wrong.
    """
    content = {} if path is None else read_recipe(path)
    where = "settings" if path is None else f"{path} with settings" if settings else str(path)
    return validated(kind, override(content, settings), where)


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the keys and values of a recipe with those of its bases, not yet checked.

    Raises:
        UserError: A file cannot be read, is not such a file, or the chain of bases comes back to itself.
    """
    return _with_base(path, set())


def settings_table(kind: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str]]:
    """Return (key, default, meaning) of every setting of a model, in order."""
    rows: list[tuple[str, str, str]] = []
    for name, field in kind.model_fields.items():
        inner = _group(field.annotation)
        if inner is not None:
            rows += settings_table(inner, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else json.dumps(field.default)
            rows.append((prefix + name, default, field.description or ""))
    return rows


def _with_base(path: Path, visited: set[Path]) -> dict[str, Any]:
    content = _read(path)
    base = content.pop("base", None)
    if base is None:
        return content
    resolved = (path.parent / str(base)).resolve()
    if resolved in visited:
        raise UserError(f"{path}: the chain of bases comes back to {base}.")
    return merged(_with_base(resolved, visited | {resolved}), content)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base with the changes in it; groups of keys are merged, other values replaced."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
