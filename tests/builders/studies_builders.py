"""A study of a few seconds, and what its result says apart from times."""

import os

from diffmem.runs import run
from diffmem.runs.evaluations import StoredEvaluation
from diffmem.runs.recipe import StudyRecipe
from diffmem.settings import override
from diffmem.studies.grid import GridStudy
from diffmem.studies.study import Grid
from diffmem.studies.tasks import work_on_runs
from diffmem.training import Trainer

TINY = {
    "title": "Tiny",
    "data": {"source": "digits", "selection": "random", "heldout": 20},
    "sizes": [4, 8],
    "model": {
        "channels": 8,
        "multipliers": [1],
        "blocks": 1,
        "attention": [],
        "dropout": 0.1,
        "preconditioning": "edm",
    },
    "training": {
        "epochs": 20,
        "batch_size": 8,
        "learning_rate": 2e-2,
        "warmup": 1,
        "ema": {"half_life": 1, "mode": "mode1"},
        "evaluations": {"count": 3, "first": 0.2},
    },
    "sampling": {"steps": 3},
    "measure": {"samples": 8, "threshold": 0.9},
    "executor": {"kind": "inline", "group": 1},
}


def tiny_recipe(*settings):
    return StudyRecipe.model_validate(override(TINY, settings))


def result_of(study, **how):
    """The record of a study of one level, as it is now."""
    return GridStudy(study.recipe, study.folder, study.store).result(**how)


def carried_out(study, **how):
    """Do what is not done yet of a study of one level; return its record."""
    Grid([study], study.folder).execute(**how)
    return result_of(study)


def table(result):
    """Everything of a result but the times, which no two executions share."""
    times = {"seconds", "training_seconds", "sampling_seconds"}

    def without(value):
        if isinstance(value, dict):
            return {key: without(inner) for key, inner in value.items() if key not in times}
        return [without(inner) for inner in value] if isinstance(value, list) else value

    return without(result.model_dump(mode="json"))


def evaluation_files(folder):
    """The small files, which hold all numbers; the images beside them are for galleries alone."""
    found = folder.glob("runs/*/evaluations/*/*.npz")
    return sorted(path for path in found if not path.name.endswith(".images.npz"))


def snapshots(folder):
    return sorted(folder.glob("runs/*/snapshots/*.safetensors"))


def forbid(monkeypatch, *what):
    """Make work fail that was done already: 'training', 'sampling' or reading 'images'."""

    def fail(*given, **named):
        raise AssertionError("this was done already")

    if "training" in what:
        monkeypatch.setattr(Trainer, "step", fail)
    if "sampling" in what:
        monkeypatch.setattr(run, "generate_resumable", fail)
    if "images" in what:
        monkeypatch.setattr(StoredEvaluation, "images", property(fail))


def run_on_a_stand_in(content, progress, warn):
    """Do a run of a study on the CPU, and say which device its worker had."""
    (run,) = content["runs"]
    warn(f"on {os.environ['CUDA_VISIBLE_DEVICES']} as {run['device']}")
    work_on_runs({"runs": [{**run, "device": "cpu"}]}, progress, warn)
