"""Carrying out experiments of the paper at a scale: from arguments in the paper's numbers to a result beside the paper's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from diffmem.errors import UserError
from diffmem.paper.claims import judge
from diffmem.paper.experiment import Experiment, Scale, ScaleName, Value
from diffmem.paper.records import ExperimentLevel, ExperimentResult, PublishedCurve
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.recipe import StudyRecipe
from diffmem.studies.grid import GridStudy

__all__ = ["PlannedLevel", "Reproduction", "plan", "reproduce"]


@dataclass(frozen=True)
class PlannedLevel:
    """One level as it will be run: its name here, the paper's name of it, and its recipe."""

    name: str
    paper_name: str
    recipe: StudyRecipe


@dataclass(frozen=True)
class Reproduction:
    """An experiment at a scale, planned: nothing is read or trained yet.

    Attributes:
        experiment: What.
        scale_name: At which scale.
        scale: That scale.
        levels: The levels to run.
        notes: What a reader must know first: which data stand in for the paper's.
        folder: Where the report goes.
        store: Where runs lie; experiments may share it.
    """

    experiment: Experiment
    scale_name: ScaleName
    scale: Scale
    levels: tuple[PlannedLevel, ...]
    notes: tuple[str, ...]
    folder: Path
    store: Path

    @property
    def recipe(self) -> StudyRecipe:
        """All levels as one recipe, which `diffmem study` carries out as well."""
        levels = {level.name: level.recipe for level in self.levels}
        return StudyRecipe.of_levels(self.experiment.title, self.experiment.factor, levels)

    @property
    def first_line(self) -> str:
        """What is run on what, in one line."""
        source = ", ".join(dict.fromkeys(Path(level.recipe.data.source).name for level in self.levels))
        words = [f"{self.experiment.title}, {self.scale_name} scale, on {source}.", *self.notes]
        return " ".join(words)


def _own_settings(
    experiment: Experiment, settings: Sequence[str]
) -> tuple[dict[str, Value], list[int], list[str]]:
    """Part the settings: parameters of the experiment, its sizes, and keys of the recipe.

    Raises:
        UserError: A setting has no '=', or a size is no whole number.
    """
    parameters: dict[str, Value] = {}
    sizes: list[int] = []
    rest: list[str] = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if key in ("size", "sizes") and equals:
            try:
                found = yaml.safe_load(text)
            except yaml.YAMLError:
                found = None
            sizes = found if isinstance(found, list) else [found]
            if not sizes or not all(type(size) is int and size > 0 for size in sizes):
                raise UserError(f"{setting}: a size is a whole number of images, for example size=1000.")
        elif key in experiment.parameters and equals:
            usual = experiment.levels[0][key]
            parameters[key] = text if isinstance(usual, str) else _number(text)
        else:
            rest.append(setting)
    return parameters, sizes, rest


def _number(text: str) -> Value:
    """Return a number; other text as it is, to be refused by who knows what it is for."""
    try:
        value: Value = yaml.safe_load(text)
        return float(value) if isinstance(value, str) else value  # YAML reads 1e-4 as text
    except (yaml.YAMLError, ValueError):
        return text


def _absent(path: str, key: str, settings: Sequence[str]) -> bool:
    return not Path(path).expanduser().exists() and not any(one.startswith(f"{key}=") for one in settings)


def plan(
    experiment: Experiment,
    scale_name: ScaleName,
    folder: Path,
    *,
    all_levels: bool = False,
    settings: Sequence[str] = (),
    store: Path | None = None,
) -> Reproduction:
    """Translate an experiment to a scale.

    Args:
        scale_name: 'paper', 'cpu' or 'smoke'.
        folder: Where the report goes.
        all_levels: The whole figure; otherwise the first level with the parameters that are set.
        settings: `key=value`: the experiment's parameters and `size` in the paper's numbers, other keys of the recipe as they
            are at the scale.
        store: Where runs lie; the folder if not given.

    Raises:
        UserError: A setting is wrong, or a data set that the scale needs is absent.
    """
    scale = experiment.scale(scale_name)
    parameters, sizes, rest = _own_settings(experiment, settings)
    for path, need in scale.needs.items():
        if _absent(path, need.key, rest):
            raise UserError(f"The {scale_name} scale needs {path}, which is not there. {need.remedy}")
    stand_ins = [one for one in scale.stand_ins.values() if _absent(one.absent, one.key, rest)]
    chosen = range(len(experiment.levels)) if scale.levels is None else scale.levels
    wanted = (
        [experiment.level(parameters, i) for i in chosen] if all_levels else [experiment.level(parameters)]
    )
    levels: dict[str, PlannedLevel] = {}
    for level in wanted:
        recipe = experiment.recipe(level, sizes or scale.sizes or experiment.sizes, scale, stand_ins, rest)
        name = experiment.label_of(experiment.translated(level, scale, stand_ins), parameters)
        # Two levels of the paper can fall on one here, as depths do when they are halved.
        levels.setdefault(name, PlannedLevel(name, experiment.paper_label(level, parameters), recipe))
    notes = (*(one.note for one in stand_ins), *scale.notes)
    return Reproduction(experiment, scale_name, scale, tuple(levels.values()), notes, folder, store or folder)


def reproduce(
    planned: Reproduction,
    *,
    device: str = "cpu",
    progress: Progress = NO_PROGRESS,
    warn: Callable[[str], None] = lambda text: None,
) -> tuple[ExperimentResult, GridStudy]:
    """Do what is not done yet of an experiment and return its result.

    The other arguments are those of `GridStudy.execute`.

    Returns:
        The result, and the study, which has the images.

    Raises:
        UserError: The data cannot be had or do not fit.
        DiffmemError: A run failed.
        KeyboardInterrupt: A stop was requested; everything is saved.
    """
    study = GridStudy(planned.recipe.with_whole_paths(), planned.folder, planned.store, progress)
    study.execute(device=device, progress=progress, warn=warn)
    experiment, found = planned.experiment, study.result(device)
    names = {level.name: level.paper_name for level in planned.levels}
    levels = [ExperimentLevel(**vars(level), paper_name=names[level.name]) for level in found.levels]
    changes = {
        "levels": levels,
        "notes": [*planned.notes, *found.notes],
        "seconds": sum(run.training_seconds + run.sampling_seconds for run in found.runs),
    }
    result = ExperimentResult(
        **{**vars(found), **changes},
        name=experiment.name,
        scale=planned.scale_name,
        finding=experiment.finding,
        form=experiment.form,
        published=[
            PublishedCurve(level=level, x=list(points), percent=list(points.values()))
            for level, points in experiment.published.items()
        ],
        size_ratio=planned.scale.size_ratio,
        epoch_ratio=planned.scale.epoch_ratio,
        claims=[claim for rule in experiment.claims if (claim := judge(rule, levels)) is not None],
    )
    return result, study
