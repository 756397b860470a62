"""The recipes of studies that choose their trainings: a factor, its levels, the base configuration that they change, how to choose."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from diffmem.errors import UserError
from diffmem.runs.recipe import StudyRecipe
from diffmem.sampling.config import SamplerConfig
from diffmem.settings import override, read_recipe, validated
from diffmem.studies.search.choice import SizeRule
from diffmem.studies.search.decisions import CrossingRule, FutilityRule, StoppingRule
from diffmem.training.config import EvaluationConfig, TrainingConfig

__all__ = [
    "AdaptiveRecipe",
    "OnsetConfig",
    "OnsetRecipe",
    "SearchConfig",
    "SearchRecipe",
    "load_study",
    "recipe_of",
]


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
    decisive: float = Field(
        1.0,
        ge=1,
        description="How many times measure.samples a point may get when training has ended, within sampling_share.",
    )
    futility: FutilityRule | None = Field(
        None,
        description="Stop trainings that are unlikely to memorize; off by default, as its error is not in the interval.",
    )

    @field_validator("futility", mode="before")
    @classmethod
    def _yes_or_no(cls, value: Any) -> Any:
        return {} if value is True else None if value is False else value


class OnsetConfig(BaseModel):
    """How the time until training copies is searched for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    line: float = Field(
        0.1, gt=0, lt=1, description="The share of copies, R_mem, whose time is searched for; 0.1 is 10%."
    )
    tolerance: float = Field(
        0.25,
        gt=0,
        le=2,
        description="Ends when the interval of a size's time reaches no further than this share above and below it.",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Of the intervals.")
    most_seeds: int = Field(12, ge=3, le=100, description="Most trainings of one level and size.")
    sampling_share: float = Field(
        0.5, gt=0, description="Largest cost of sampling, as a fraction of the cost of training."
    )


class AdaptiveRecipe(StudyRecipe):
    """A study that samples each training until it is decided: what its plans have in common.

    Each level is the base configuration (`data`, `model`, `training`, `sampling`) with its settings.
    """

    # Points that do not move with the epochs, so that a longer study goes on from a shorter one.
    evaluations: ClassVar[EvaluationConfig] = EvaluationConfig(schedule="doubling")
    training: TrainingConfig = TrainingConfig(evaluations=evaluations)

    @field_validator("training", mode="before")
    @classmethod
    def _extendable(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "evaluations" not in value:
            return {**value, "evaluations": cls.evaluations}
        return value

    @model_validator(mode="after")
    def _check_adaptive(self) -> Self:
        if self.measure.frechet is not None:
            raise ValueError("a search samples only as many images as it needs; leave measure.frechet out")
        return self

    def level(self, name: str) -> StudyRecipe:
        """Return the configuration of one level, as a study of its sizes.

        Raises:
            UserError: Its settings do not fit.
        """
        found = super().level(name)
        if not found.model.is_trained:
            raise UserError(
                f"level {name!r}: the optimum is not trained: it has no EMM and copies from the start, however many images there are."
                " See `diffmem optimum`."
            )
        return found

    @property
    @abstractmethod
    def confidence(self) -> float:
        """Of the intervals."""

    @abstractmethod
    def stopping_rule(self, points: int, images_trained: float, sampling: SamplerConfig) -> StoppingRule:
        """Return when one training stops.

        Args:
            points: Its evaluation points.
            images_trained: Of the whole training.
            sampling: How images are generated: says what one costs.
        """


class SearchRecipe(AdaptiveRecipe):
    """EMM for every level of a factor: everything but where it is stored."""

    title: str = Field("EMM", description="Heading of the report.")
    plan: Literal["grid", "search", "onset"] = Field("search", description="As of a study of fixed sizes.")
    sizes: tuple[int, int] = Field(description="The smallest and the largest size that may be trained.")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="Seeds; EMM is searched for with each.")
    search: SearchConfig = SearchConfig()

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        smallest, largest = self.sizes
        if not smallest < largest:
            raise ValueError(
                f"sizes must be the smallest and the largest size to try, 2 or more and ascending, not {list(self.sizes)}"
            )
        if self.search.start is not None and not smallest <= self.search.start <= largest:
            raise ValueError(
                f"search.start = {self.search.start} is not between sizes, {smallest} and {largest}"
            )
        return self

    @property
    def confidence(self) -> float:
        """Of the interval of EMM."""
        return self.search.confidence

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
        """Return when one training stops: when it is certain whether R_mem reaches 1 - epsilon; see `AdaptiveRecipe`."""
        affordable = self.search.sampling_share * images_trained / sampling.image_cost
        return StoppingRule.of(
            1 - self.measure.epsilon,
            self.alpha,
            points,
            self.measure.samples,
            affordable,
            self.search.futility,
            self.search.decisive,
        )


class OnsetRecipe(AdaptiveRecipe):
    """How long a model may be trained on so many images before it copies, for every level of a factor."""

    title: str = Field("Until it copies", description="Heading of the report.")
    plan: Literal["grid", "search", "onset"] = Field("onset", description="As of a study of fixed sizes.")
    seeds: tuple[int, ...] = Field(
        (0, 1, 2), min_length=3, description="The first seeds; as many more follow as the tolerance asks for."
    )
    # A time is known no better than the points lie apart: a factor of 1.19.
    evaluations: ClassVar[EvaluationConfig] = EvaluationConfig(schedule="doubling", per_doubling=4)
    training: TrainingConfig = TrainingConfig(evaluations=evaluations)
    onset: OnsetConfig = OnsetConfig()

    @model_validator(mode="after")
    def _check_onset(self) -> Self:
        if len(self.seeds) > self.onset.most_seeds:
            raise ValueError(
                f"there are {len(self.seeds)} seeds, but onset.most_seeds is {self.onset.most_seeds}"
            )
        return self

    @property
    def confidence(self) -> float:
        """Of the times."""
        return self.onset.confidence

    def stopping_rule(self, points: int, images_trained: float, sampling: SamplerConfig) -> StoppingRule:
        """Return when one training stops: when R_mem is certainly at the line, and certainly below it before; see `AdaptiveRecipe`."""
        affordable = self.onset.sampling_share * images_trained / sampling.image_cost
        # Half of the error for each side, and half of that for the evaluation next to the gap: see `run_time`.
        alpha = (1 - self.onset.confidence) / 4
        return CrossingRule.of(self.onset.line, alpha, points, self.measure.samples, affordable)

    def seeds_after(self, seeds: Sequence[int]) -> list[int]:
        """Return the seeds that follow these, half as many again, up to `onset.most_seeds`."""
        more = min(max(1, len(seeds) // 2), self.onset.most_seeds - len(seeds))
        return list(range(max(seeds) + 1, max(seeds) + 1 + more))


def recipe_of(content: Mapping[str, Any]) -> AdaptiveRecipe:
    """Return a recipe from what `model_dump` said of it."""
    kind = OnsetRecipe if content["plan"] == "onset" else SearchRecipe
    return kind.model_validate(content)


_RECIPES: dict[str, type[StudyRecipe]] = {"grid": StudyRecipe, "search": SearchRecipe, "onset": OnsetRecipe}


def load_study(path: Path, settings: Sequence[str] = ()) -> StudyRecipe:
    """Read the recipe of a study and check every level; one without `plan` searches for a time if it has `onset`, and is a
    search for EMM if it has `search` or `levels`.

    Args:
        path: The YAML file; `base` in it names another recipe to begin with.
        settings: `key=value` overrides.

    Raises:
        UserError: The file, a key or a level in it is wrong.
    """
    content = override(read_recipe(path), settings)
    guess = "grid" if {"search", "levels"}.isdisjoint(content) else "search"
    plan = content.get("plan", "onset" if "onset" in content else guess)
    where = f"{path} with settings" if settings else str(path)
    for key in {"search", "onset"} & set(content) - {plan}:
        raise UserError(
            f"{where}: {key} is of plan: {key}, but the plan of this recipe is {plan}; remove {key}, or write plan: {key}."
        )
    recipe = validated(_RECIPES.get(str(plan), StudyRecipe), content, where)
    for name in recipe.levels:
        recipe.level(name)
    return recipe
