"""Recipes: a study as typed settings, read from YAML and from `key=value` settings on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from diffmem.errors import UserError
from diffmem.executors.config import ExecutorConfig
from diffmem.models.config import ModelConfig
from diffmem.sampling.config import SamplerConfig
from diffmem.settings import leaves, set_key, validated
from diffmem.training.config import TrainingConfig

__all__ = ["BudgetConfig", "DataConfig", "MeasureConfig", "StudyRecipe", "TrainRecipe"]

_OF_A_LEVEL = ("data", "model", "training", "sampling")


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

    source: str = Field(description="'digits', or the path of anything that `diffmem data build` reads.")
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


class BudgetConfig(_Config):
    """What a study may spend: once that is spent, no training begins; those that run are finished."""

    images: float | None = Field(
        None,
        gt=0,
        description="Images trained on and generated by the study's trainings, in units of training on one image once.",
    )
    hours: float | None = Field(None, gt=0, description="Hours that the study works, of all its sessions.")

    def is_spent(self, images: float, hours: float) -> bool:
        """Return whether what was spent reaches a limit."""
        pairs = ((images, self.images), (hours, self.hours))
        return any(most is not None and spent >= most for spent, most in pairs)

    def describe(self, images: float, hours: float) -> str:
        """Return what was spent of what: '1,200 of 1,000 images, 0.5 of 2 hours'."""
        parts = [] if self.images is None else [f"{images:,.0f} of {self.images:,.0f} images"]
        parts += [] if self.hours is None else [f"{hours:.2g} of {self.hours:.3g} hours"]
        return ", ".join(parts)


class TrainRecipe(_Config):
    """One training: the model M and the procedure T."""

    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()

    def remarks(self) -> list[str]:
        """Return what the user may not have meant, as sentences: settings that were changed and have no effect."""
        return [f"{sentence}." for sentence in self.training.remarks(self.model.preconditioning)]


class StudyRecipe(TrainRecipe):
    """A study: a base configuration, the levels of a factor that change it, sizes, seeds; everything but where it is stored."""

    title: str = Field("Study", description="Heading of the report.")
    plan: Literal["grid", "search", "onset"] = Field(
        "grid",
        description="'grid' trains every size to the end, 'search' chooses sizes until EMM is known, 'onset' trains until it is known when"
        " each size begins to copy; if it is not given, a recipe with onset is that, and one with search or levels a search.",
    )
    data: DataConfig
    factor: str = Field("level", description="What the levels are, for example 'resolution'.")
    levels: dict[str, dict[str, Any]] = Field(
        {"base": {}}, min_length=1, description="Level -> its settings, dotted key: value."
    )
    published: dict[str, float] = Field(
        {}, description="Level -> EMM that the paper reports for it, for comparison."
    )
    sizes: tuple[int, ...] = Field(min_length=1, description="Numbers of training images.")
    seeds: tuple[int, ...] = Field(
        (0,), min_length=1, description="Seeds; each size is trained once with each."
    )
    sampling: SamplerConfig = SamplerConfig()
    measure: MeasureConfig = MeasureConfig()
    executor: ExecutorConfig = ExecutorConfig()
    budget: BudgetConfig | None = None

    @field_validator("levels", "published", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        found: dict[str, Any] = {}
        for name, one in value.items():
            if str(name) in found:
                raise ValueError(f"two levels are named {str(name)!r}")
            # A group, `model: {channels: 8}`, changes what it lists, as `model.channels: 8` does.
            found[str(name)] = {} if one is None else dict(leaves(one)) if isinstance(one, Mapping) else one
        return found

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.plan != type(self).model_fields["plan"].default:
            raise ValueError(f"plan is {self.plan!r}, but these are the settings of another plan")
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
        for seed in self.seeds:
            if not -(2**63) <= seed < 2**64:
                raise ValueError(
                    f"seeds has {seed}, which is not from -2^63 to 2^64 - 1; use for example 0, 1, 2"
                )
        unknown = sorted(set(self.published) - set(self.levels))
        if unknown:
            raise ValueError(f"published names the level {unknown[0]!r}, which is not among levels")
        return self

    def level(self, name: str) -> StudyRecipe:
        """Return the configuration of one level, as a study of its sizes.

        Raises:
            UserError: Its settings do not fit.
        """
        base = self.model_dump(mode="json", include={*_OF_A_LEVEL, "sizes", "seeds", "measure"})
        base["title"] = self.title if name == "base" else f"{self.title}: {name}"
        where = f"level {name!r}"
        for key, value in self.levels[name].items():
            if key.partition(".")[0] not in _OF_A_LEVEL:
                raise UserError(
                    f"{where}: a level may change data, model, training and sampling, not {key!r}."
                )
            set_key(base, key, value, f"{where}, {key!r}")
        return validated(StudyRecipe, base, where).model_copy(
            update={"executor": self.executor, "budget": self.budget}
        )

    def remarks(self) -> list[str]:
        """Return what the user may not have meant, as sentences: settings without effect, levels that are the same."""
        found: dict[str, list[str]] = {}
        same: dict[str, list[str]] = {}
        for name in self.levels:
            level = self.level(name)
            for text in [
                *level.training.remarks(level.model.preconditioning),
                *level.sampling.remarks("sampling."),
            ]:
                found.setdefault(text, []).append(name)
            same.setdefault(level.model_dump_json(include=set(_OF_A_LEVEL)), []).append(name)
        texts = [
            f"{text}." if len(names) == len(self.levels) else f"Level {', '.join(names)}: {text}."
            for text, names in found.items()
        ]
        return texts + [
            f"The levels {', '.join(names)} have the same settings: their numbers are of the same trainings, and no comparison."
            for names in same.values()
            if len(names) > 1
        ]

    @classmethod
    def of_levels(cls, title: str, factor: str, levels: Mapping[str, StudyRecipe]) -> StudyRecipe:
        """Return the grid whose levels are these; they may differ in data, model, training and sampling alone."""
        first, *_ = levels.values()
        settings = {
            name: dict(leaves(one.model_dump(mode="json", include=set(_OF_A_LEVEL))))
            for name, one in levels.items()
        }
        base, *others = settings.values()
        alike = {
            key for key, value in base.items() if all(key in one and one[key] == value for one in others)
        }
        changes = {
            name: {key: value for key, value in one.items() if key not in alike}
            for name, one in settings.items()
        }
        return first.model_copy(update={"title": title, "factor": factor, "levels": changes})

    def with_whole_paths(self) -> Self:
        """Return the recipe with paths in full, so that the study can be opened from any folder."""
        values = self.model_dump(mode="json")

        def whole(source: object) -> object:
            # The word 'digits' is no path, also where a folder is called so, such as that of a study.
            if not isinstance(source, str) or source == "digits" or not Path(source).exists():
                return source
            return str(Path(source).resolve())

        for settings in (values["data"], values["data"]["mixture"] or {}):
            if "source" in settings:
                settings["source"] = whole(settings["source"])
        for settings in values["levels"].values():
            for key in {"data.source", "data.mixture.source"} & set(settings):
                settings[key] = whole(settings[key])
        if "path" in values["executor"]:
            values["executor"]["path"] = whole(values["executor"]["path"])
        return type(self).model_validate(values)
