"""Numbers and findings as people read them; shared by the page, the figures and the terminal."""

from __future__ import annotations

import math

from diffmem.memorization.rates import Rate
from diffmem.text import count_text, percent

__all__ = ["count_text", "line_text", "rate_text", "sentence", "size_text", "threshold_text"]


def rate_text(rate: Rate) -> str:
    """Return a rate with its 95% interval: '92.1% [91.5, 92.6]'."""
    return f"{percent(rate.value)} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def size_text(number: float) -> str:
    """Return a number of images or epochs: '5,000', '47', '3.5'; whole numbers from 10 on."""
    if math.isinf(number):
        return "∞"
    return f"{number:,.0f}" if number >= 10 or number == round(number) else f"{number:.2g}"


def threshold_text(threshold: float) -> str:
    """Return the threshold of the ratio rule: '1/3' where it is that, else three digits."""
    return "1/3" if math.isclose(threshold, 1 / 3, rel_tol=1e-3) else f"{threshold:.3g}"


def line_text(epsilon: float) -> str:
    """Return the share that R_mem is held against, 1 - epsilon: '90%'."""
    return f"{100 * (1 - epsilon):.4g}%"


def sentence(text: str, *, capital: bool = True) -> str:
    """Return a text that ends with a full stop and, unless told otherwise, begins with a capital letter."""
    text = text.strip()
    if not text:
        return ""
    return (text[0].upper() if capital else text[0]) + text[1:] + ("" if text[-1] in ".!?" else ".")
