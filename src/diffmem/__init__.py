"""diffmem: measure, explain and audit memorization in diffusion models.

    import diffmem as dm

    train, heldout = dm.open_images("train.npz"), dm.open_images("fresh.npz")
    run = dm.train(train, model=dm.ModelConfig(channels=32), training=dm.TrainingConfig(epochs=2000))
    samples = dm.generate(run.model, seeds=range(1000))
    print(dm.measure(samples, train, heldout=heldout))
    print(dm.audit(train, samples=samples, heldout=heldout).verdict)

The names are imported when they are first used, so that `import diffmem` is instant. The packages follow the definition of
effective model memorization, EMM(P, M, T): `data` (P), `models` (M), `training` (T); each imports only from those before it,
in the order that `tests/test_architecture.py` holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffmem.version import __version__

if TYPE_CHECKING:
    from diffmem.api.auditing import Audit, audit
    from diffmem.api.denoisers import generate, train
    from diffmem.api.measuring import measure, measure_run
    from diffmem.api.onset import onset
    from diffmem.api.studies import find_emm, find_onset, open_emm, open_study, run_study
    from diffmem.data import ImageSet, Reading, hold_out, open_images, write_images
    from diffmem.errors import DiffmemError, UserError
    from diffmem.models import Denoiser, ModelConfig, function_denoiser, open_model, open_text_model
    from diffmem.optimum.optimum import Optimum
    from diffmem.runs.recipe import DataConfig, MeasureConfig, StudyRecipe
    from diffmem.sampling import SamplerConfig
    from diffmem.studies.onset import Curve
    from diffmem.studies.search.recipe import SearchConfig
    from diffmem.training import TrainingConfig
    from diffmem.training.config import EmaConfig, EvaluationConfig

_ORIGINS = {
    "Audit": "api.auditing",
    "Curve": "studies.onset",
    "DataConfig": "runs.recipe",
    "Denoiser": "models",
    "DiffmemError": "errors",
    "EmaConfig": "training.config",
    "EvaluationConfig": "training.config",
    "ImageSet": "data",
    "MeasureConfig": "runs.recipe",
    "ModelConfig": "models",
    "Optimum": "optimum.optimum",
    "Reading": "data",
    "SamplerConfig": "sampling",
    "SearchConfig": "studies.search.recipe",
    "StudyRecipe": "runs.recipe",
    "TrainingConfig": "training",
    "UserError": "errors",
    "audit": "api.auditing",
    "find_emm": "api.studies",
    "find_onset": "api.studies",
    "function_denoiser": "models",
    "generate": "api.denoisers",
    "hold_out": "data",
    "measure": "api.measuring",
    "measure_run": "api.measuring",
    "onset": "api.onset",
    "open_emm": "api.studies",
    "open_images": "data",
    "open_model": "models",
    "open_study": "api.studies",
    "open_text_model": "models",
    "run_study": "api.studies",
    "train": "api.denoisers",
    "write_images": "data",
}
"""Where each public name is defined."""

__all__ = [
    "Audit",
    "Curve",
    "DataConfig",
    "Denoiser",
    "DiffmemError",
    "EmaConfig",
    "EvaluationConfig",
    "ImageSet",
    "MeasureConfig",
    "ModelConfig",
    "Optimum",
    "Reading",
    "SamplerConfig",
    "SearchConfig",
    "StudyRecipe",
    "TrainingConfig",
    "UserError",
    "__version__",
    "audit",
    "find_emm",
    "find_onset",
    "function_denoiser",
    "generate",
    "hold_out",
    "measure",
    "measure_run",
    "onset",
    "open_emm",
    "open_images",
    "open_model",
    "open_study",
    "open_text_model",
    "run_study",
    "train",
    "write_images",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _ORIGINS:
        raise AttributeError(f"module 'diffmem' has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f"diffmem.{_ORIGINS[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
