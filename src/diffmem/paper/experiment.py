"""The experiments of the paper as data: what each varies, at the paper's scale and at smaller ones.

An experiment is a file of the catalogue. It states its factor's levels and sizes in the paper's own numbers; a scale translates
them (a training set of 1,000 images becomes one of 40) and brings the base configuration of the recipes. So the arguments of the
paper's scripts mean the same experiment at every scale.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from diffmem.errors import UserError, nearest
from diffmem.runs.recipe import StudyRecipe
from diffmem.settings import merged, override, validated

__all__ = [
    "SCALES",
    "ClaimRule",
    "Experiment",
    "Scale",
    "ScaleName",
    "experiment_names",
    "load_experiment",
    "load_scale",
]

ScaleName = Literal["paper", "cpu", "smoke"]
SCALES: tuple[ScaleName, ...] = ("paper", "cpu", "smoke")
Value = bool | int | float | str


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Translation(_Config):
    """How a number of the paper is read at a scale: multiplied, divided, looked up, or as it is."""

    divide: float | None = Field(None, gt=0)
    multiply: float | None = Field(None, gt=0)
    map: dict[Value, Value] | None = None

    def __call__(self, name: str, value: Value) -> Value:
        """Return the value at the scale; whole numbers stay whole, and at least 1.

        Raises:
            UserError: The value is not in the map, or is no number.
        """
        if self.map is not None:
            if value not in self.map:
                known = ", ".join(map(str, self.map))
                raise UserError(f"{name}={value} has no counterpart at this scale; choose one of {known}.")
            return self.map[value]
        if self.divide is None and self.multiply is None:
            return value
        if isinstance(value, bool | str):
            raise UserError(f"{name}={value} must be a number.")
        changed = value * (self.multiply or 1) / (self.divide or 1)
        return max(1, round(changed)) if isinstance(value, int) and value > 0 else changed


class Need(_Config):
    """What to do where a data set that a scale cannot do without is absent."""

    key: str = Field(description="Key of the recipe that names it: who sets it needs no other.")
    remedy: str


class StandIn(_Config):
    """What a smaller scale runs on where a data set is absent."""

    absent: str = Field("", description="Path of the data set, from the working directory.")
    key: str = Field("", description="Key of the recipe that names it: who sets it needs no stand-in.")
    note: str = Field("", description="What stands in for what, for the first line of output and the report.")
    settings: dict[str, Any] = Field(default_factory=dict, description="Recipe keys that change.")
    translate: dict[str, Translation] = Field(default_factory=dict)


class Scale(_Config):
    """One scale of an experiment: what is added to the base of all experiments."""

    recipe: dict[str, Any] = Field(default_factory=dict, description="Groups of recipe keys.")
    size_ratio: float = Field(1, gt=0, description="The paper's number of training images for one here.")
    size_multiple: int = Field(1, ge=1, description="Sizes are rounded to a multiple of this.")
    epoch_ratio: float = Field(1, gt=0, description="The paper's epochs for one here.")
    translate: dict[str, Translation] = Field(default_factory=dict)
    sizes: tuple[int, ...] | None = Field(None, description="Other sizes than the paper's, in its numbers.")
    levels: tuple[int, ...] | None = Field(
        None, description="Which levels are run, from 0 on; all if not given."
    )
    needs: dict[str, Need] = Field(default_factory=dict, description="Paths that must exist.")
    stand_ins: dict[str, StandIn] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def over(self, base: Scale) -> Scale:
        """Return this scale with what it does not say taken from a base."""
        content = merged(base.model_dump(exclude_unset=True), self.model_dump(exclude_unset=True))
        if (
            self.stand_ins
        ):  # its own come first: the base's replaces what they take from a data set that is absent too
            content["stand_ins"] = {
                key: content["stand_ins"][key] for key in [*self.stand_ins, *base.stand_ins]
            }
        return Scale.model_validate(content)

    def size(self, paper_size: float) -> int:
        """Return the training-set size that stands for one of the paper's."""
        return max(1, round(paper_size / self.size_ratio / self.size_multiple)) * self.size_multiple


class ClaimRule(_Config):
    """Something that the paper found, and how a result shows it; exactly one of the rules is given.

    The names of levels are the paper's. `rising`: R_mem rises along these levels (`either_way`: or falls; for findings whose
    direction is unknown). `same`: two levels agree within `margin`
    points. `sizes`, `epochs`: it falls with the size, rises with the epochs. `at_least`: these levels reach it, in percent.
    """

    text: str
    rising: tuple[str, ...] | None = None
    either_way: bool = False
    same: tuple[str, str] | None = None
    margin: float = 10.0
    along: Literal["sizes", "epochs"] | None = None
    at_least: dict[str, float] | None = None


class Experiment(_Config):
    """A figure or table of the paper, in its own numbers."""

    name: str
    title: str
    factor: str = Field(description="What the levels differ in.")
    form: Literal["size", "level", "epochs", "masks"] = Field(description="See `results.ExperimentResult`.")
    finding: str = Field(description="What the paper found.")
    label: str = Field(description="Name of a level; {parameter} stands for its value.")
    settings: dict[str, str] = Field(
        description="Recipe keys; {parameter} stands for its value at the scale."
    )
    levels: tuple[dict[str, Value], ...] = Field(min_length=1, description="Values of the parameters.")
    sizes: tuple[int, ...] = Field(min_length=1)
    published: dict[str, dict[float, float | None]] = Field(default_factory=dict)
    claims: tuple[ClaimRule, ...] = ()
    paper: Scale = Scale()
    cpu: Scale = Scale()
    smoke: Scale = Scale()

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that can be set, beside the size."""
        return tuple(self.levels[0])

    def scale(self, name: ScaleName) -> Scale:
        """Return a scale with the base of all experiments under it."""
        own: Scale = getattr(self, name)
        return own.over(load_scale(name))

    def level(self, settings: Mapping[str, Value], start: int = 0) -> dict[str, Value]:
        """Return a level of the paper with some parameters changed."""
        return {**self.levels[start], **settings}

    def label_of(self, level: Mapping[str, Value], changed: Collection[str] = ()) -> str:
        """Return the name of a level, and those of the changed parameters that its label does not show.

        Args:
            level: All parameters.
            changed: Parameters that somebody set.
        """
        hidden = [
            f"{key} {value}"
            for key, value in level.items()
            if f"{{{key}}}" not in self.label and key in changed and value != self.levels[0][key]
        ]
        return ", ".join([self.label.format(**level).replace(" (C = null)", ""), *hidden])

    def paper_label(self, level: Mapping[str, Value], changed: Collection[str] = ()) -> str:
        """Return the name of a level at the paper's scale; a duration, say, is in the scripts' own unit until it is translated.

        Args:
            level: All parameters, in the paper's numbers.
            changed: Parameters that somebody set.
        """
        return self.label_of(self.translated(level, self.scale("paper")), changed)

    def translated(
        self, level: Mapping[str, Value], scale: Scale, stand_ins: Sequence[StandIn] = ()
    ) -> dict[str, Value]:
        """Return a level's parameters as they are at a scale.

        Raises:
            UserError: A value has no counterpart.
        """
        rules = dict(scale.translate)
        for stand_in in stand_ins:
            rules.update(stand_in.translate)
        return {key: rules.get(key, Translation())(key, value) for key, value in level.items()}

    def recipe(
        self,
        level: Mapping[str, Value],
        sizes: Sequence[int],
        scale: Scale,
        stand_ins: Sequence[StandIn] = (),
        settings: Sequence[str] = (),
    ) -> StudyRecipe:
        """Return the study of one level.

        Args:
            level: All parameters, in the paper's numbers.
            sizes: Training-set sizes, in the paper's numbers.
            scale: From `scale`.
            stand_ins: What is used for data sets that are absent.
            settings: Further `key=value` settings of the recipe, as they are.

        Raises:
            UserError: A parameter or a setting is wrong.
        """
        here = self.translated(level, scale, stand_ins)
        content = dict(scale.recipe)
        for stand_in in stand_ins:
            changes = [f"{key}={json.dumps(value)}" for key, value in stand_in.settings.items()]
            content = override(content, changes)
        own = [f"{key}={text.format(**here)}" for key, text in self.settings.items()]
        chosen = list(dict.fromkeys(scale.size(size) for size in sizes))
        own += [f"sizes={chosen}", f"title={json.dumps(self.title)}"]
        return validated(StudyRecipe, override(content, [*own, *settings]), f"experiment {self.name}")


def _catalogue() -> Path:
    return Path(str(resources.files("diffmem.paper"))) / "catalogue"


def experiment_names() -> list[str]:
    """Return the names of all experiments, in the order of the paper."""
    names = [path.stem for path in _catalogue().glob("*.yaml") if path.stem != "base"]
    return sorted(names, key=lambda name: name.replace("table", "fig4_table"))  # its place in the paper


def load_experiment(name: str) -> Experiment:
    """Read an experiment of the catalogue.

    Raises:
        UserError: There is none of this name.
    """
    names = experiment_names()
    if name not in names:
        raise UserError(
            f"There is no experiment {name!r}.{nearest(name, names)} Experiments are {', '.join(names)}."
        )
    content = yaml.safe_load((_catalogue() / f"{name}.yaml").read_text("utf-8"))
    return validated(Experiment, {"name": name, **content}, f"experiment {name}")


def load_scale(name: ScaleName) -> Scale:
    """Return the base of all experiments at a scale."""
    content = yaml.safe_load((_catalogue() / "base.yaml").read_text("utf-8"))
    return validated(Scale, content[name], f"scale {name}")
