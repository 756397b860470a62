"""Batches that a GPU has no memory for: the error names the one that fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from diffmem.errors import UserError

__all__ = ["BatchTooLargeError", "within_memory"]

_Result = TypeVar("_Result")


class BatchTooLargeError(UserError):
    """The device has too little memory for a batch.

    Attributes:
        fits: The largest half, quarter, ... of it that fits; 0 if not even one image does.
    """

    def __init__(self, text: str, fits: int = 0) -> None:
        super().__init__(text)
        self.fits = fits


def within_memory(work: Callable[[int], _Result], count: int, name: str, processes: int = 1) -> _Result:
    """Return `work(count)`; if the device has too little memory for it, find out how many images it has enough for.

    Args:
        work: Called with a number of images to process at once; again with halves of it, if memory is short.
        count: Images at once.
        name: Of the setting that says how many, for the message.
        processes: How many share the setting's value: it is `processes * count`.

    Raises:
        BatchTooLargeError: There is too little memory. The message says what fits.
    """
    try:
        return work(count)
    except torch.OutOfMemoryError as error:
        reason = ". ".join(str(error).split(". ")[:2]).rstrip(".")  # and how much was asked for
    # From here on nothing holds what the failed work had allocated: the error, which did, is gone.
    fits = next((size for size in (count >> k for k in range(1, count.bit_length())) if _fits(work, size)), 0)
    fits *= processes
    remedy = (
        f"{fits} would fit: set {name} to that or less, or use a device with more memory."
        if fits
        else "Not even one image at a time fits: use a smaller network, or a device with more memory."
    )
    text = f"{name} = {processes * count} needs more memory than the device has ({reason}). {remedy}"
    raise BatchTooLargeError(text, fits)


def _fits(work: Callable[[int], object], count: int) -> bool:
    torch.cuda.empty_cache()
    try:
        work(count)
    except torch.OutOfMemoryError:
        return False
    return True
