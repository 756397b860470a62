"""What a Frechet distance or a similarity can be of: averaged pixels, an Inception network, or a TorchScript network given by its file.

Networks that were trained on prepared images get theirs prepared in the same way: size, crop, normalization.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmem.errors import UserError, nearest
from diffmem.files import sha256_file
from diffmem.memorization.frechet import FeatureFunction

__all__ = [
    "PREPARATIONS",
    "Features",
    "Preparation",
    "features_key",
    "open_features",
    "pixel_features",
    "preparation_named",
]

GRID = 4
_NAMES = ["pixels", "inception"]
_BATCH = 64


_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preparation:
    """Bring uint8 images to what a network takes: RGB, values 0 to 1, resized, cropped, normalized.

    Attributes:
        side: Of the shorter side after resizing (bilinear with antialiasing), or of both.
        skewed: Whether both sides become `side`, whatever the shape.
        crop: Side of the square that is cut out of the middle; 0 for none.
        mean: Subtracted from each channel.
        std: Each channel is divided by it.
    """

    side: int
    skewed: bool
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 (B, 3, h, w) for uint8 (B, 1 or 3, H, W)."""
        x = images.expand(-1, 3, -1, -1).float() / 255
        height, width = x.shape[2:]
        scale = self.side / min(height, width)
        size = (self.side, self.side) if self.skewed else (round(height * scale), round(width * scale))
        x = torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        if self.crop:
            top, left = (x.shape[2] - self.crop) // 2, (x.shape[3] - self.crop) // 2
            x = x[:, :, top : top + self.crop, left : left + self.crop]
        mean, std = (torch.tensor(values, device=x.device)[:, None, None] for values in (self.mean, self.std))
        return (x - mean) / std


PREPARATIONS: dict[str, Preparation | None] = {
    "uint8": None,
    "sscd": Preparation(288, False, 0, *_IMAGENET),
    "sscd-320": Preparation(320, True, 0, *_IMAGENET),
    "dcr": Preparation(256, False, 224, *_HALF),
}
"""Preparations in use, by name: 'uint8', none at all, for networks that prepare by themselves; 'sscd' and 'sscd-320', the two that the
authors of SSCD recommend (Pizzi et al. 2022; shorter side 288, or both sides 320); 'dcr', that of Somepalli et al. (2023). Similarities of
different preparations are not comparable, so the name stands in the protocol id."""


def preparation_named(name: str) -> Preparation | None:
    """Return a preparation by its name.

    Raises:
        UserError: There is none of this name.
    """
    if name not in PREPARATIONS:
        raise UserError(
            f"There is no preparation {name!r}; choose {', '.join(PREPARATIONS)}.{nearest(name, list(PREPARATIONS))}"
        )
    return PREPARATIONS[name]


@dataclass(frozen=True)
class Features:
    """A named function of images.

    Attributes:
        key: Names the function in stored results; two files of the same name have different keys.
        compute: The function.
    """

    key: str
    compute: FeatureFunction


def features_key(name: str) -> str:
    """Return the key of features without loading them.

    Args:
        name: 'pixels', 'inception', or the path of a TorchScript file.

    Raises:
        UserError: There is no such file.
    """
    if name in _NAMES:
        return name
    path = Path(name)
    if not path.is_file():
        raise UserError(
            f"Features {name!r} are neither 'pixels' nor 'inception', and there is no TorchScript file of this name."
            f"{nearest(name, _NAMES)}"
        )
    return f"torchscript {path.name} {sha256_file(path)[:12]}"


def open_features(name: str, device: torch.device | str = "cpu", preparation: str = "uint8") -> Features:
    """Load what a Frechet distance, or a similarity, is to be of.

    Args:
        name: 'pixels': see `pixel_features`. 'inception': the 2048 features of the Inception network of the FID, by
            torch-fidelity (the extra diffmem[fid]); grey images are shown to it as RGB. Else the path of a TorchScript
            file, a network that takes uint8 images (B, C, H, W) as they are and returns (B, F).
        device: Where networks run.
        preparation: How images are prepared for a TorchScript network, see `PREPARATIONS`; 'uint8' for one that takes them as they are.

    Raises:
        UserError: The file, the package or the weights are missing, the file is not TorchScript, or there is no such preparation.
    """
    key, prepare = features_key(name), preparation_named(preparation)
    if prepare is not None and name in _NAMES:
        raise UserError(
            f"Features {name!r} prepare images by themselves; leave the preparation {preparation!r} out."
        )
    if name == "pixels":
        return Features(key, pixel_features)
    if name == "inception":
        return Features(key, _batched(_inception(device), device, rgb=True))
    network = _torchscript(Path(name), device)
    if prepare is None:
        return Features(key, _batched(network, device))
    return Features(
        f"{key} prepared as {preparation}", _batched(lambda batch: network(prepare(batch)), device)
    )


def pixel_features(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return mean grey levels over the cells of a 4x4 grid, float64 (N, C * 16), 0 to 255.

    They need no network and few images, and see layout and colour, no detail. A side of fewer than 4 pixels stays as it is.
    """
    height, width = images.shape[2:]
    side = (min(GRID, height), min(GRID, width))
    pooled = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(images.astype(np.float64)), side)
    return pooled.flatten(1).numpy()


def _batched(
    network: Callable[[Tensor], Any], device: torch.device | str, *, rgb: bool = False
) -> FeatureFunction:
    def compute(images: NDArray[np.uint8]) -> NDArray[np.floating]:
        parts = []
        with torch.no_grad():
            for start in range(0, len(images), _BATCH):
                batch = torch.from_numpy(np.array(images[start : start + _BATCH])).to(device)
                if rgb and batch.shape[1] == 1:
                    batch = batch.expand(-1, 3, -1, -1)
                parts.append(_rows(network, batch))
        return np.concatenate(parts)

    return compute


def _rows(network: Callable[[Tensor], Any], batch: Tensor) -> NDArray[np.floating]:
    try:
        found = network(batch)
    except Exception as error:  # whatever a foreign network finds wrong with the images
        text = str(error).strip().splitlines()
        raise UserError(
            f"The network of the features does not take uint8 images {tuple(batch.shape)}:"
            f" {text[-1] if text else type(error).__name__}."
        ) from error
    if isinstance(found, tuple) and found:
        found = found[0]
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != len(batch):
        what = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise UserError(f"The network of the features returned {what} for {len(batch)} images, not (B, F).")
    return found.double().cpu().numpy()


def _torchscript(path: Path, device: torch.device | str) -> Callable[[Tensor], Any]:
    try:
        network = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path} is not a TorchScript file; write it with torch.jit.save.") from error
    evaluated: Callable[[Tensor], Any] = network.eval()
    return evaluated


def _inception(device: torch.device | str) -> Callable[[Tensor], Any]:
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as source
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises the latter
        raise UserError(
            "Inception features need the package torch-fidelity and its own torchvision"
            f" ({error}): pip install 'diffmem[fid]', or use the features 'pixels' or a TorchScript file."
        ) from error
    weights = Path(torch.hub.get_dir()) / "checkpoints" / source.URL_INCEPTION_V3.rpartition("/")[2]
    if not weights.is_file():
        _download(source.URL_INCEPTION_V3, weights)
    try:
        # The package itself would run code in a pickle: only what passes this may come to it.
        torch.load(weights, map_location="cpu", weights_only=True)
        network = source.FeatureExtractorInceptionV3("inception", ["2048"], str(weights))
    except Exception as error:
        raise UserError(
            f"{weights} does not hold the weights of the Inception network ({type(error).__name__}); remove it, and it is"
            " downloaded again."
        ) from error
    placed: Callable[[Tensor], Any] = network.to(device)
    return placed


def _download(address: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = target.stem.rpartition("-")[2]  # the package names its files by the beginning of their SHA-256
    try:
        torch.hub.download_url_to_file(address, str(target), hash_prefix=digest, progress=False)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"The weights of the Inception network could not be downloaded ({error}). Where there is no network, fetch"
            f" {address} elsewhere and put it at {target}."
        ) from error
