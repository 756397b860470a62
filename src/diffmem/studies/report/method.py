"""How a study is read, and how it was made: the words of a page, as headings with their lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diffmem.reports.text import sentence, shared_texts, size_text, target_text, threshold_text
from diffmem.studies.records import LevelRecord, StudyRecord
from diffmem.studies.report.text import level_text

__all__ = ["data_text", "glossary", "method_text", "versions_text"]

Words = list[tuple[str, list[str]]]


def glossary(result: StudyRecord) -> Words:
    """Return what the numbers of a study mean: (heading, paragraphs)."""
    target = target_text(result.epsilon)
    rates = [one.memorized for run in result.runs for one in run.evaluations]
    methods = ", ".join(sorted({rate.method for rate in rates}))
    found = [
        (
            "Copy",
            "A generated image is a copy when its distance to the nearest training image is less than"
            f" {threshold_text(result.threshold)} of its distance to the second nearest: it is much closer to one training image"
            " than to any other (Yoon et al., 2023).",
        ),
        (
            "R_mem",
            f"The fraction of generated images that are copies, out of {'' if result.plan == 'grid' else 'at most '}"
            f"{result.samples:,} images per evaluation. A model is evaluated several times during training; the peak is the highest"
            " of these, the end is the last. The peak, a maximum of noisy numbers, is biased slightly upwards.",
        ),
        (
            "Intervals",
            "The sampling error of R_mem, since the number of generated images is finite"
            f"{f' ({methods})' if methods else ''}. It does not cover the variation between training runs."
            " Of several seeds the mean is given, and the union of their intervals.",
        ),
        (
            "Null rate",
            "The rate of the same rule on real images that were not in the training set. They cannot be copies, so this is its"
            " false-positive rate; an R_mem near the null rate is no evidence of copying.",
        ),
        _asked(result, target),
        ("Training images copied", "How many different training images are copied at the peak."),
        (
            "Distance to the nearest",
            "The mean distance from a generated image to the nearest training image at the peak, in grey levels (root mean square"
            " over pixels; 0 is identical, 255 is black against white).",
        ),
    ]  # fmt: skip
    return [(heading, [text]) for heading, text in [*found, *(_search_words(result, target))]]


def _asked(result: StudyRecord, target: str) -> tuple[str, str]:
    if result.plan == "onset":
        return (
            "Epochs until copies",
            f"When R_mem first reaches {target} in training: between the last evaluation that is certainly below and the first"
            " that is certainly there; of several seeds the mean of the logarithm.",
        )
    return (
        "EMM",
        "Effective model memorization: the largest number of training images at which R_mem is still at least"
        f" {target} (Gu et al., 2025).",
    )


def _search_words(result: StudyRecord, target: str) -> list[tuple[str, str]]:
    if result.tolerance is None:
        return []
    if result.plan == "onset":
        return [
            (
                "When training and sampling stop",
                f"A training ends once R_mem is certainly at least {target}. The evaluations before it then get more images,"
                " backwards, until one is certainly below. Tests are those of confidence sequences, valid at any stopping time.",
            ),
            (
                "How many seeds",
                f"Seeds are added until the interval of a size's time lies within {100 * result.tolerance:.3g}% above and below it, or one"
                " of them does not get there.",
            ),
        ]
    return [
        (
            "When sampling stops",
            "Images are generated in batches of growing size. A confidence sequence tests after each whether R_mem is at least"
            f" {target}; unlike a fixed-sample interval it is valid at any stopping time, so stopping early adds no"
            " error.",
        ),
        (
            "When training stops",
            f"Once R_mem is certainly at least {target} the training ends, because the highest value counts. A"
            " training is 'not memorized' only when every evaluation point is certainly below.",
        ),
        (
            "How sizes are chosen",
            "The search brackets the crossing, then narrows the bracket in log N; training sets are nested: every larger one"
            f" contains the smaller ones. It ends when the half-width of the interval is within {100 * result.tolerance:.3g}%"
            " of EMM.",
        ),
        (
            "Cost",
            "A unit is the cost of training on one image once; a generated image counts by its network evaluations."
            " The search is compared with a fixed grid: the same range with sizes spaced by the tolerance,"
            " every one trained to the end, with all images sampled at every evaluation point.",
        ),
    ]  # fmt: skip


def method_text(result: StudyRecord) -> Words:
    """Return how a study was made: (heading, lines); a line per level only where levels differ."""

    def by_level(of: Callable[[LevelRecord], str]) -> list[str]:
        texts = [(level_text(level.name), of(level)) for level in result.levels]
        return [text for text in shared_texts(texts, len(texts)) if text]

    def settings(level: LevelRecord) -> str:
        return ", ".join(f"{key} = {value}" for key, value in level.settings.items())

    def estimate(level: LevelRecord) -> str:
        ends = level.emm.bracket
        where = (
            f"; the crossing lies between {size_text(ends[0])} and {size_text(ends[1])} images"
            if ends
            else ""
        )
        return sentence(level.emm.method + where)

    sizes = map(size_text, result.sizes)
    found = [
        ("Data", by_level(lambda level: level.data)),
        ("Model", by_level(lambda level: level.model)),
        ("Training", by_level(lambda level: level.training)),
        ("What a level changes", by_level(settings)),
        ("Sampling", by_level(lambda level: level.sampling)),
        ("Sizes", [(" to " if result.plan == "search" else ", ").join(sizes)]),
        ("Seeds", [", ".join(map(str, result.seeds))]),
        ("How EMM is estimated", by_level(estimate)),
        ("Measuring protocol", [result.protocol]),
        ("Versions", versions_text([result])),
    ]
    return [(heading, lines) for heading, lines in found if lines]


def data_text(result: StudyRecord) -> str:
    """Return the data in words: of all levels if they share it, else the first and how many others there are."""
    found = list(dict.fromkeys(level.data for level in result.levels))
    if len(found) <= 1:
        return "".join(found)
    return f"{found[0].rstrip('.')} (and {len(found) - 1} more, one per level: see below)"


def versions_text(results: Sequence[StudyRecord]) -> list[str]:
    """Return each set of versions that studies used, once."""
    texts = (", ".join(f"{name} {one}" for name, one in result.versions.items()) for result in results)
    return list(dict.fromkeys(texts))
