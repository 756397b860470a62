"""The recipe of a search: a factor, its levels, and the base configuration that they change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from diffmem.errors import UserError
from diffmem.executors.config import ExecutorConfig
from diffmem.runs.recipe import DataConfig, MeasureConfig, StudyRecipe, TrainRecipe
from diffmem.sampling.config import SamplerConfig
from diffmem.settings import load_recipe, read_recipe, set_key, validated
from diffmem.studies.search.choice import SizeRule
from diffmem.studies.search.decisions import FutilityRule, StoppingRule
from diffmem.training.config import EvaluationConfig, TrainingConfig

__all__ = ["SearchConfig", "SearchRecipe", "is_search", "load_search"]


class SearchConfig(BaseModel):
    """How EMM is searched for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tolerance: float = Field(
        0.1, gt=0, lt=0.5, description="Ends when half the interval of EMM is at most this share of it."
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Of the interval of EMM.")
    start: int | None = Field(
        None, ge=2, description="First size; the smallest if not given and no level was searched yet."
    )
    hints: bool = Field(
        True, description="Search the middle level first, and start the others where their neighbours ended."
    )
    most_sizes: int = Field(12, ge=2, le=100, description="Most sizes of one level and seed.")
    sampling_share: float = Field(
        0.5, gt=0, description="Largest cost of sampling, as a fraction of the cost of training."
    )
    futility: FutilityRule | None = Field(
        None,
        description="Stop trainings that are unlikely to memorize; off by default, as its error is not in the interval.",
    )

    @field_validator("futility", mode="before")
    @classmethod
    def _yes_or_no(cls, value: Any) -> Any:
        return {} if value is True else None if value is False else value


class SearchRecipe(TrainRecipe):
    """EMM for every level of a factor: everything but where it is stored.

    Each level is the base configuration (`data`, `model`, `training`, `sampling`) with its settings.
    """

    title: str = Field("EMM", description="Heading of the report.")
    data: DataConfig
    training: TrainingConfig = TrainingConfig(evaluations=EvaluationConfig(schedule="doubling"))
    factor: str = Field("level", description="What the levels are, for example 'resolution'.")
    levels: dict[str, dict[str, Any]] = Field(
        {"base": {}}, min_length=1, description="Level -> its settings, dotted key: value."
    )
    published: dict[str, float] = Field(
        {}, description="Level -> EMM that the paper reports for it, for comparison."
    )
    sizes: tuple[int, int] = Field(description="The smallest and the largest size that may be trained.")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="Seeds; EMM is searched for with each.")
    sampling: SamplerConfig = SamplerConfig()
    measure: MeasureConfig = MeasureConfig()
    search: SearchConfig = SearchConfig()
    executor: ExecutorConfig = ExecutorConfig()

    @field_validator("levels", "published", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(name): {} if one is None else one for name, one in value.items()}
        return value

    @field_validator("training", mode="before")
    @classmethod
    def _extendable(cls, value: Any) -> Any:
        # Points that do not move with the epochs, so that a longer study goes on from a shorter one.
        if isinstance(value, Mapping) and "evaluations" not in value:
            return {**value, "evaluations": {"schedule": "doubling"}}
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        smallest, largest = self.sizes
        if not 2 <= smallest < largest:
            raise ValueError(
                f"sizes must be the smallest and the largest size to try, 2 or more and ascending, not {list(self.sizes)}"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds repeats a value: {list(self.seeds)}")
        if self.search.start is not None and not smallest <= self.search.start <= largest:
            raise ValueError(
                f"search.start = {self.search.start} is not between sizes, {smallest} and {largest}"
            )
        unknown = sorted(set(self.published) - set(self.levels))
        if unknown:
            raise ValueError(f"published names the level {unknown[0]!r}, which is not among levels")
        if self.measure.frechet is not None:
            raise ValueError("a search samples only as many images as it needs; leave measure.frechet out")
        return self

    def level(self, name: str) -> StudyRecipe:
        """Return the configuration of one level, as a study of its sizes.

        Raises:
            UserError: Its settings do not fit.
        """
        base = self.model_dump(mode="json", include=set(StudyRecipe.model_fields) - {"executor"})
        base["title"] = f"{self.title}: {name}"
        where = f"level {name!r}"
        for key, value in self.levels[name].items():
            if key.partition(".")[0] not in ("data", "model", "training", "sampling"):
                raise UserError(
                    f"{where}: a level may change data, model, training and sampling, not {key!r}."
                )
            set_key(base, key, value, f"{where}, {key!r}")
        found = validated(StudyRecipe, base, where)
        if not found.model.is_trained:
            raise UserError(
                f"{where}: the optimum is not trained and has no EMM: it copies however many images there are. See `diffmem optimum`."
            )
        return found

    def with_whole_paths(self) -> SearchRecipe:
        """Return the recipe with paths in full, so that the study can be opened from any folder."""
        values = self.model_dump(mode="json")

        def whole(source: object) -> object:
            return (
                str(Path(source).resolve()) if isinstance(source, str) and Path(source).exists() else source
            )

        for settings in (values["data"], values["data"]["mixture"] or {}):
            if "source" in settings:
                settings["source"] = whole(settings["source"])
        for settings in values["levels"].values():
            for key in {"data.source", "data.mixture.source"} & set(settings):
                settings[key] = whole(settings[key])
        if "path" in values["executor"]:
            values["executor"]["path"] = whole(values["executor"]["path"])
        return type(self).model_validate(values)

    @property
    def alpha(self) -> float:
        """The allowed error of one training's verdict: that of the interval, shared by all sizes of a search."""
        return (1 - self.search.confidence) / self.search.most_sizes

    def size_rule(self, start: float | None) -> SizeRule:
        """Return how sizes are chosen, beginning at `start`."""
        return SizeRule(
            *self.sizes, self.measure.epsilon, self.search.tolerance, start, self.search.most_sizes
        )

    def stopping_rule(self, points: int, images_trained: float, sampling: SamplerConfig) -> StoppingRule:
        """Return when one training stops.

        Args:
            points: Its evaluation points.
            images_trained: Of the whole training.
            sampling: How images are generated: says what one costs.
        """
        affordable = self.search.sampling_share * images_trained / sampling.image_cost
        return StoppingRule.of(
            1 - self.measure.epsilon,
            self.alpha,
            points,
            self.measure.samples,
            affordable,
            self.search.futility,
        )


def is_search(path: Path) -> bool:
    """Whether a recipe is that of a search: it, or a base of it, has `search` or `levels`.

    Raises:
        UserError: The file cannot be read.
    """
    return not {"search", "levels"}.isdisjoint(read_recipe(path))


def load_search(path: Path, settings: list[str] | None = None) -> SearchRecipe:
    """Read the recipe of a search and check every level.

    Raises:
        UserError: The file, a key or a level in it is wrong.
    """
    recipe = load_recipe(SearchRecipe, path, settings or [])
    for name in recipe.levels:
        recipe.level(name)
    return recipe
