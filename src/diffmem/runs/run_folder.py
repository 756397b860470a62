"""What a run's folder says: the configuration that it is named by, its snapshots, its metrics."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field

from diffmem.errors import UserError
from diffmem.models.config import ModelConfig
from diffmem.settings import validated
from diffmem.training.config import TrainingConfig
from diffmem.training.loop import read_metrics, snapshots_in

__all__ = ["CONFIG_FILE", "RunConfig", "RunFolder"]

CONFIG_FILE = "config.yaml"


class TrainingSetId(BaseModel):
    """Which training set a run has."""

    fingerprint: str = Field(description="Content hash of the images and labels.")
    size: int = Field(ge=1, description="Number of images.")


class RunConfig(BaseModel):
    """The configuration of a run, as its folder holds it."""

    data: TrainingSetId
    model: ModelConfig
    training: TrainingConfig
    seed: int


class RunFolder:
    """The folder of a run, wherever it lies; what is there is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def config(self) -> RunConfig:
        """The configuration.

        Raises:
            UserError: The folder does not describe a run.
        """
        path = self.path / CONFIG_FILE
        try:
            content = yaml.safe_load(path.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(
                f"{self.path} is not the folder of a run: it holds no {CONFIG_FILE}. Runs lie in the folder that was given"
                " to diffmem train --out, and in runs/ of a study."
            ) from error
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path} does not describe a run: {' '.join(str(error).split())}.") from error
        return validated(RunConfig, content, f"{path} does not describe a run")

    @property
    def snapshots(self) -> list[int]:
        """The images seen at each snapshot that is there, ascending; they are not opened."""
        return snapshots_in(self.path)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The metrics: images_seen, epoch, loss and learning_rate at each logged point."""
        return read_metrics(self.path)
