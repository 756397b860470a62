"""Sheets of tiles among samples: a regular lattice across which pixels have nothing to do with each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffmem.memorization.plausibility.statistics import conform
from diffmem.memorization.plausibility.value_range import chance_distances, distances, features, scale_of

__all__ = ["Lattice", "find_lattice", "find_sheet"]

_MOST_TILES = 16
_LEAST_SIDE = 4
_LARGEST = 300
_ACROSS = 64
_WITHIN = 0.35
_FLAT = 0.999
_BOUND = 0.5
_STRICT = 0.35
_DIFFERENCE = 0.25
_PADDING = 8
_PIECES = 400


@dataclass(frozen=True)
class Lattice:
    """How many tiles a sheet has: `rows` x `columns`, one of them may be 1."""

    rows: int
    columns: int


def find_lattice(samples: NDArray[np.uint8], training: NDArray[np.uint8]) -> Lattice | None:
    """Return the lattice of the samples if they are sheets of tiles.

    Within an image, pixels on two sides of a line are correlated, whichever line it is. In sheets they are not at regular
    lines, with or without padding between the tiles; resizing the sheet leaves that as it is. Blocks of JPEG do not.

    Args:
        samples: uint8 (n, C, H, W).
        training: uint8 (m, C, H, W), images that are no sheets, brought to the size of the samples: a line that they have
            too is none of a lattice.
    """
    if len(samples) == 0 or len(training) == 0:
        return None
    sets = [_centred(images[:_LARGEST]) for images in (samples, training)]
    rows = _tiles(*sets)
    columns = _tiles(*(images.swapaxes(2, 3) for images in sets))
    found = [tiles for tiles in (rows, columns) if tiles is not None]
    # Along one side only, as in a strip: the evidence is half, so it must be stronger.
    if not found or (len(found) == 1 and found[0][1] > _STRICT):
        return None
    return Lattice(rows[0] if rows else 1, columns[0] if columns else 1)


def find_sheet(samples: NDArray[np.uint8], training: NDArray[np.uint8]) -> Lattice | None:
    """Return the lattice of samples that can be cut into images of the training size which fit far better than the whole.

    Args:
        samples: uint8 (n, C, H, W), of the training images' channels and larger than they.
        training: uint8 (m, C, h, w), as they are.
    """
    shape = training.shape[1:]
    if samples.shape[1] != shape[0] or len(samples) == 0:
        return None
    known = features(training[:_PIECES])
    scale = scale_of(known, training[:_PIECES])
    whole = distances(features(conform(samples[:_PIECES], shape)), known, scale).mean()
    best: tuple[float, Lattice] | None = None
    for padding in range(_PADDING + 1):
        pieces = _cut(samples, shape, padding)
        if pieces is None:
            continue
        images, lattice = pieces
        apart = distances(features(images), known, scale).mean()
        usual = chance_distances(known, None, scale, len(images)).mean()
        if apart <= max(4 * usual, 0.25) and 2 * apart <= whole and (best is None or apart < best[0]):
            best = float(apart), lattice
    return None if best is None else best[1]


def _cut(
    samples: NDArray[np.uint8], shape: tuple[int, ...], padding: int
) -> tuple[NDArray[np.uint8], Lattice] | None:
    """Cut sheets into images of a shape with padding around each; None if the sizes do not allow it."""
    counts = []
    for side, tile in zip(samples.shape[2:], shape[1:], strict=True):
        # A single row or column may be without padding, as strips are.
        if (side - padding) % (tile + padding) == 0:
            counts.append(((side - padding) // (tile + padding), padding))
        elif side == tile:
            counts.append((1, 0))
        else:
            return None
    (rows, above), (columns, left) = counts
    if rows * columns < 2:
        return None
    some = samples[: max(1, _PIECES // (rows * columns))]
    pieces = []
    for row in range(rows):
        for column in range(columns):
            top, start = above + row * (shape[1] + above), left + column * (shape[2] + left)
            pieces.append(some[:, :, top : top + shape[1], start : start + shape[2]])
    return np.concatenate(pieces)[:_PIECES], Lattice(rows, columns)


def _centred(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    pixels = images.astype(np.float32)
    # What all images share at a position says nothing of whether two positions belong together.
    pixels -= pixels.mean(axis=0) if len(images) >= 8 else pixels.mean(axis=(2, 3), keepdims=True)
    return pixels


def _tiles(samples: NDArray[np.float32], training: NDArray[np.float32]) -> tuple[int, float] | None:
    """Return the number of tiles along the rows' axis and how correlated pixels across their lines are, relative to others."""
    side = samples.shape[2]
    if side < 2 * _LEAST_SIDE:
        return None
    joined = [[_correlations(images, gap) for gap in (0, 1)] for images in (samples, training)]
    best = None
    for count in range(2, min(_MOST_TILES, side // _LEAST_SIDE) + 1):
        tile = side / count
        window = 0 if tile < 6 and side % count == 0 else 1 if tile < 12 else 2
        lines = [round(k * tile) for k in range(1, count)]
        spans = [slice(max(line - window, 1), min(line + window, side - 1) + 1) for line in lines]
        # Right beside the line where there is no padding; farther where it may have been smeared.
        for gap in (0, 1) if tile >= 8 else (0,):
            found = _evidence(joined[0][gap], joined[1][gap], spans, gap)
            if found is not None:
                best = count, found
    return best


def _evidence(
    here: NDArray[np.float64], there: NDArray[np.float64], spans: list[slice], gap: int
) -> float | None:
    """Return how correlated pixels across the lines of the samples are, relative to others; None if that shows no lattice."""
    others = np.isfinite(here)
    for span in spans:
        others[max(span.start - gap, 0) : span.stop + gap] = False
    if not others.any():
        return None
    within = float(np.median(here[others]))
    across = np.array([np.nanmin(here[span]) for span in spans])
    usual = np.array([np.nanmin(there[span]) for span in spans])
    uncorrelated = _WITHIN <= within <= _FLAT and across.max() <= _BOUND * within
    if not uncorrelated or (usual - across).mean() < _DIFFERENCE:
        return None
    return float(across.mean() / within)


def _correlations(pixels: NDArray[np.float32], gap: int) -> NDArray[np.float64]:
    """Return for each line between rows i - 1 and i the correlation of the rows `gap` beyond on its two sides, (H,).

    Lines too near to the edge have none (nan); rows without variance, as padding has, are correlated with nothing (0).
    """
    side = pixels.shape[2]
    step = max(1, pixels.shape[3] // _ACROSS)
    rows = np.ascontiguousarray(pixels[..., ::step].transpose(2, 0, 1, 3)).reshape(side, -1)
    power = np.einsum("rd,rd->r", rows, rows)
    found = np.full(side, np.nan)
    least = 1e-3 * float(power.mean())
    for line in range(1 + gap, side - gap):
        above, below = line - 1 - gap, line + gap
        scale = np.sqrt(power[above] * power[below])
        flat = power[above] <= least or power[below] <= least
        found[line] = 0.0 if flat else float(rows[above] @ rows[below]) / scale
    return found
