"""A search of a few seconds, and what its result says apart from times."""

from diffmem.settings import override
from diffmem.studies.search.onset_study import OnsetStudy
from diffmem.studies.search.recipe import OnsetRecipe, SearchRecipe
from diffmem.studies.search.study import SearchStudy

TINY = {
    "title": "Tiny search",
    "factor": "channels",
    "levels": {"8": {"model.channels": 8}, "12": {"model.channels": 12}},
    "sizes": [4, 60],
    "data": {"source": "digits", "selection": "random", "heldout": 20},
    "model": {
        "channels": 8,
        "multipliers": [1],
        "blocks": 1,
        "attention": [],
        "dropout": 0.0,
        "preconditioning": "edm",
    },
    "training": {
        "epochs": 24,
        "batch_size": 8,
        "learning_rate": 2e-2,
        "warmup": 1,
        "ema": {"half_life": 1, "mode": "mode1"},
        "evaluations": {"schedule": "doubling", "start": 12, "per_doubling": 1},
    },
    "sampling": {"steps": 3},
    # With a threshold near 1 the rate falls with N already after a short training.
    "measure": {"samples": 100, "threshold": 0.97, "epsilon": 0.65},
    "search": {"tolerance": 0.4, "sampling_share": 20, "start": 8, "most_sizes": 4},
    "executor": "inline",
}


def tiny_recipe(*settings):
    return SearchRecipe.model_validate(override(TINY, settings))


def carried_out(folder, *settings, store=None, warn=None):
    """Carry out the tiny search in a folder; return the study."""
    study = SearchStudy(tiny_recipe(*settings), folder, store)
    study.execute(warn=warn or (lambda text: None))
    return SearchStudy(tiny_recipe(*settings), folder, store)


ONSET = {
    **{key: value for key, value in TINY.items() if key not in ("title", "factor", "levels", "search")},
    "title": "Tiny onset",
    "sizes": [4],
    "seeds": [0, 1, 2],
    "training": {
        **TINY["training"],
        "epochs": 320,
        "evaluations": {"schedule": "doubling", "start": 20, "per_doubling": 1},
    },
    "measure": {"samples": 200, "threshold": 0.85},
    "sampling": {"steps": 6},
    "onset": {"line": 0.2, "tolerance": 0.1, "most_seeds": 3},
}


def onset_recipe(*settings):
    return OnsetRecipe.model_validate(override(ONSET, settings))


def until_copied(folder, *settings):
    """Carry out the tiny search for a time in a folder; return the study."""
    OnsetStudy(onset_recipe(*settings), folder).execute()
    return OnsetStudy(onset_recipe(*settings), folder)


def table(result):
    """Everything of a result but times and incidents, which no two executions share."""
    dropped = {"seconds", "training_seconds", "sampling_seconds", "incidents"}

    def without(value):
        if isinstance(value, dict):
            return {key: without(inner) for key, inner in value.items() if key not in dropped}
        return [without(inner) for inner in value] if isinstance(value, list) else value

    return without(result.model_dump(mode="json"))


def nothing(content, progress, warn):
    """Work that leaves nothing on the disk."""
