"""Figures that are made but not drawn: drawing is most of the time of a command that leaves a report."""

import io
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from matplotlib.figure import Figure
from PIL import Image


def _pixel():
    stream = io.BytesIO()
    Image.new("L", (1, 1)).save(stream, "png")
    return stream.getvalue()


_CONTENTS = {"png": _pixel(), "svg": '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'}


def _save(figure, target, *, format, **how):
    content = _CONTENTS[format]
    if hasattr(target, "write"):
        target.write(content)
    else:
        Path(target).write_bytes(content)


@contextmanager
def undrawn_figures():
    """In this context a figure that is saved becomes a picture of one pixel."""
    with patch.object(Figure, "savefig", _save):
        yield
