"""What a drawn figure of an experiment shows: its curves, intervals and texts."""

from itertools import combinations

from matplotlib.collections import LineCollection
from matplotlib.text import Text


def panels(figure):
    return figure.axes[0], figure.axes[1]


def curve(axes, label):
    return next(line for line in axes.lines if line.get_label() == label)


def curves(axes):
    """The lines through means or the paper's points, by label."""
    lines = {line.get_label(): line for line in axes.lines}
    return {
        label: line
        for label, line in lines.items()
        if not label.startswith(("_", "runs of", "null rates")) and len(line.get_xdata())
    }


def intervals(axes):
    segments = [
        segment
        for one in axes.collections
        if isinstance(one, LineCollection)
        for segment in one.get_segments()
    ]
    return {(round(min(y), 6), round(max(y), 6)) for y in (segment[:, 1] for segment in segments)}


def wanted(rate):
    return round(100 * rate.low, 6), round(100 * rate.high, 6)


def words(axes):
    return [text.get_text() for text in axes.texts]


def boxes_of(figure):
    """Every text that is shown, with the box of its letters (an upright text's box is upright)."""
    found = []
    for axes in figure.axes:
        if not axes.axison:
            continue
        texts = [*axes.texts, axes.xaxis.label, axes.yaxis.label, axes._left_title]
        texts += [*axes.get_xticklabels(), *axes.get_yticklabels()]
        found += [text for text in texts if text.get_visible() and text.get_text()]
    found += [text for legend in figure.legends for text in legend.get_texts()]
    found += figure.texts
    return [(text.get_text(), Text.get_window_extent(text)) for text in found]


def overlaps(boxes):
    return [
        (one, other)
        for (one, a), (other, b) in combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5
    ]
