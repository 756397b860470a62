"""A grid carried out in a folder: every size and seed of every level of a factor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diffmem.distributed import world
from diffmem.environment import versions
from diffmem.memorization import RatioRule, protocol_id
from diffmem.memorization.examples import Example
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.recipe import StudyRecipe
from diffmem.studies.driver import UNFINISHED, budget_state, seconds_spent
from diffmem.studies.folder import study_at_work
from diffmem.studies.records import StudyRecord
from diffmem.studies.search.levels import Item
from diffmem.studies.study import Grid, Study

__all__ = ["GridStudy"]


class GridStudy:
    """A recipe of a grid carried out in a folder; it has the methods of a `SearchStudy`.

    Args:
        folder: Where the recipe and the report lie.
        store: Where runs and their data lie; the folder if not given. Studies may share it.
        progress: Reports the reading of images.

    Raises:
        UserError: The data cannot be had, a size cannot be drawn, or the images do not fit a model.
    """

    def __init__(
        self, recipe: StudyRecipe, folder: Path, store: Path | None = None, progress: Progress = NO_PROGRESS
    ) -> None:
        self.recipe, self.folder, self.store = recipe, folder, store or folder
        self.studies = {
            name: Study(
                recipe.level(name),
                folder,
                progress,
                store=self.store,
                level=name if len(recipe.levels) > 1 else "",
            )
            for name in recipe.levels
        }
        self._grid: Grid | None = None

    def execute(
        self,
        *,
        device: str = "cpu",
        progress: Progress = NO_PROGRESS,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Do what is not done yet, until the budget is spent; the arguments and errors are those of `Grid.execute`.

        Raises:
            BusyFolderError: Another process is at it.
        """
        with study_at_work(self.folder, self.recipe, self.store):
            self._grid = Grid(list(self.studies.values()), self.folder)
            self._grid.execute(device=device, progress=progress, warn=warn)

    def result(self, device: str = "cpu", *, so_far: bool = False) -> StudyRecord:
        """Summarize the study as it is now, finished or not.

        Args:
            device: Where it computed.
            so_far: Include runs that are not finished.
        """
        recipe, notes = self.recipe, self.recipe.remarks()
        found = [study.level_record(name, recipe, so_far=so_far) for name, study in self.studies.items()]
        done = sum(run.verdict is None for level in found for run in level.runs)
        wanted = sum(len(study.runs()) for study in self.studies.values())
        if done < wanted:
            spent, text = self._budget()
            why = f"{UNFINISHED} ({text})" if spent else "unfinished"
            notes = [f"{why}; {wanted - done} of {wanted} runs are missing", *notes]
        measure = recipe.measure
        return StudyRecord(
            title=recipe.title,
            plan="grid",
            factor=recipe.factor,
            levels=found,
            sizes=sorted(recipe.sizes),
            seeds=list(recipe.seeds),
            samples=measure.samples,
            protocol=protocol_id(RatioRule(measure.threshold)),
            threshold=measure.threshold,
            epsilon=measure.epsilon,
            finished=done >= wanted,
            seconds=seconds_spent(self.folder),
            versions=versions(device),
            notes=notes,
        )

    def spent_text(self) -> str:
        """Return what is spent of what the study may spend, in words; '' without a budget."""
        return self._budget()[1]

    def _budget(self) -> tuple[bool, str]:
        """Return what `budget_state` does; what was seen to be finished is not read again."""
        if self.recipe.budget is None:
            return False, ""
        grid = self._grid = self._grid or Grid(list(self.studies.values()), self.folder)
        grid.waiting(())
        return world().from_main(lambda: budget_state(grid))

    def example(self, item: Item, *, warn: Callable[[str], None] = print) -> Example | None:
        """Return the first images of a training's most memorizing point with their neighbours."""
        study = self.studies[item.level]
        runs = {(len(run.training_set), run.seed): run for run in study.runs()}
        return study.example(runs[item.size, item.seed].run_id, warn=warn)
