"""Dropout whose masks are functions of what they are for, so that they depend on no generator, process or order.

Whether a value is dropped follows from the step, the image's position in the global batch, the layer, and the value's position
in the image: processes that share a batch drop what one process would, and a resumed training needs no random state. An integer
hash computes it: counters of the values and keys of the images, each mixed by itself (multiplications and shifted
exclusive-ors on 32 bits; the constants are those of C. Wellons' "lowbias32"), are joined and mixed again. Each hash gives
two values of 16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Dropout", "set_masks"]

_LEVELS = 1 << 16  # the probability is rounded to a multiple of 1 / 65,536


def _signed(number: int) -> int:
    """Return the 32-bit integer with the low 32 bits of a number; torch wraps products of such integers."""
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)


_GOLDEN, _FIRST, _SECOND = _signed(0x9E3779B9), _signed(0x7FEB352D), _signed(0x846CA68B)


def _fold(x: Tensor, shift: int) -> Tensor:
    """Replace x by x ^ (x >>> shift); shifts of torch's signed integers repeat the sign, so those bits are cleared."""
    return x.bitwise_xor_((x >> shift).bitwise_and_((1 << (32 - shift)) - 1))


def _mix(x: Tensor) -> Tensor:
    """Replace 32-bit integers by a bijection of them in which each output bit depends on all input bits."""
    return _fold(_fold(_fold(x, 16).mul_(_FIRST), 15).mul_(_SECOND), 16)


def _counters(first: int, last: int, device: torch.device | str) -> Tensor:
    return torch.arange(first, last, dtype=torch.int32, device=device) * _GOLDEN


def _masks(keys: Tensor, count: int, dropped: int) -> Tensor:
    """Return which of an image's `count` values stay, bool (B, count), for each key."""
    # The counters are few, for one image; what follows runs over all images, and is kept short.
    hashes = _mix(_counters(0, (count + 1) // 2, keys.device)) ^ keys[:, None]
    hashes = _fold(hashes.mul_(_FIRST), 15).mul_(_SECOND)
    return hashes.view(torch.int16)[:, :count] >= dropped - _LEVELS // 2


class Dropout(nn.Module):
    """Sets values to zero with a probability in training, and scales the others to keep the mean.

    Without keys (see `set_masks`), as in a training by other code than this package's, torch's generator draws the masks.

    Args:
        probability: Of dropping a value, in [0, 1); rounded to a multiple of 1/65,536.

    Attributes:
        keys: What the masks of the next batch are computed from, int32 (B,), one for each image.
    """

    keys: Tensor | None

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.keys = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape; in evaluation mode, to itself."""
        dropped = min(round(self.probability * _LEVELS), _LEVELS - 1)
        if not self.training or not dropped:
            return x
        if self.keys is None:
            return F.dropout(x, self.probability)
        batch, channels, height, width = x.shape
        mask = _masks(self.keys, channels * height * width, dropped)
        # Counted with channels innermost, as activations lie in memory.
        mask = mask.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return (x * mask.to(torch.float32).mul_(_LEVELS / (_LEVELS - dropped))).to(x.dtype)


def set_masks(
    layers: Sequence[Dropout], seed: int, first: int, last: int, device: torch.device | str = "cpu"
) -> None:
    """Choose the masks of all layers for the next batch.

    Args:
        layers: The layers of a network, in a fixed order.
        seed: A 63-bit number that differs for every training and step.
        first: Position in the global batch of the first image that the network will see.
        last: Position behind the last one.
        device: Where the network is.
    """
    if not layers:
        return
    images = _mix(_counters(first, last, device) ^ _signed(seed))
    depths = _mix(_counters(0, len(layers), device) ^ _signed(seed >> 32))
    for layer, keys in zip(layers, _mix(images ^ depths[:, None]), strict=True):
        layer.keys = keys
