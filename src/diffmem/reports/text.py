"""Numbers and findings as people read them; shared by the page, the figures and the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable

from diffmem.memorization.rates import Rate
from diffmem.text import count_text, percent

__all__ = [
    "capitalized",
    "count_text",
    "large_text",
    "rate_text",
    "sentence",
    "shared_texts",
    "size_text",
    "target_text",
    "threshold_text",
]


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


def large_text(number: float) -> str:
    """Return a large number in a few characters: '830', '52,300', '4.2 M', '1.3 G'."""
    for unit, name in ((1e9, "G"), (1e6, "M")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{float(f'{number:.3g}'):,.0f}"


def target_text(epsilon: float) -> str:
    """Return the rate that R_mem is held against, 1 - epsilon: '90%'."""
    return f"{100 * (1 - epsilon):.4g}%"


def shared_texts(texts: Iterable[tuple[str, str]], count: int) -> list[str]:
    """Return each text once, after the names of those that have it where these are fewer than all.

    Args:
        texts: (name, text).
        count: Number of all names.
    """
    found: dict[str, dict[str, None]] = {}
    for name, text in texts:
        found.setdefault(text, {})[name] = None
    return [text if len(names) >= count else f"{', '.join(names)}: {text}" for text, names in found.items()]


def capitalized(text: str) -> str:
    """Return a text with a capital first letter and the rest as it is."""
    return text[:1].upper() + text[1:]


def sentence(text: str, *, capital: bool = True) -> str:
    """Return a text that ends with a full stop and, unless `capital` is false, begins with a capital letter."""
    text = text.strip()
    return (capitalized(text) if capital else text) + ("" if text[-1:] in (*".!?", "") else ".")
