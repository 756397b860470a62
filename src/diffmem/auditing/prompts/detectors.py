"""What scores of prompts are worth on this model: thresholds from control prompts, power by repeats, and what the texts alone tell.

Scores rank prompts and decide nothing. A threshold is an order statistic of the control prompts, so its rate of false alarms is exact where
the prompts differ from them by a draw (canaries, or captions held out by a draw); nothing is fitted to the prompts that are judged.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffmem.attacks.exposure import rank_sum_p_value
from diffmem.attacks.roc import Area, area_under_curve
from diffmem.auditing.prompts.detector_records import (
    DETECTORS,
    DetectorKey,
    DetectorLevel,
    DetectorRecord,
    DetectorsRecord,
    RankedPrompt,
)
from diffmem.data.prompts import Group, comparable, prompt_hash
from diffmem.memorization.rates import Rate

__all__ = ["AskedPrompt", "Detected", "Scores", "agreement", "detectors_of", "text_alone", "threshold_of"]

Scores = Mapping[DetectorKey, Mapping[str, float]]
"""By detector, the score of each prompt that has one; prompts as `comparable` writes them."""

_FALSE_ALARMS = 0.05
_LEVEL = 0.05
_FOLDS = 5
_LEAST_CONTROLS = 19
_LEAST_TEXTS, _MOST_TEXTS = 20, 1000
_RANKED = 20


def agreement(images: NDArray[np.uint8]) -> float:
    """Return minus the mean distance of pairs of samples of a prompt: root mean square of their differences, 0 to -255.

    Args:
        images: uint8 (n, C, H, W), n at least 2.
    """
    flat = images.reshape(len(images), -1).astype(np.float64)
    squares = [np.square(flat[at] - flat[at + 1 :]).mean(1) for at in range(len(flat) - 1)]
    return -float(np.sqrt(np.concatenate(squares)).mean())


def threshold_of(controls: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the k-th highest score of controls and k / (n + 1), the largest such number up to 0.05; none of fewer than 19.

    Another control of the same distribution is above it with at most that probability, whatever the distribution is.
    """
    count = math.floor(_FALSE_ALARMS * (len(controls) + 1) + 1e-9)
    return None if not count else (float(np.sort(controls)[-count]), count / (len(controls) + 1))


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt, what kind it is, and how often an epoch of training holds its images, where that is told."""

    text: str
    group: Group
    repeats: int | None = None

    @property
    def key(self) -> str:
        """The prompt as `comparable` writes it."""
        return comparable(self.text)


@dataclass(frozen=True)
class Detected:
    """What detectors say, with every score.

    Attributes:
        record: What they can do here.
        prompts: Every prompt.
        scores: By detector and prompt.
    """

    record: DetectorsRecord
    prompts: Sequence[AskedPrompt]
    scores: Scores


def detectors_of(
    asked: Sequence[AskedPrompt],
    samples: tuple[NDArray[np.uint8], Sequence[NDArray[np.int64]]],
    scores: Scores,
    planted: Mapping[str, int],
    *,
    private: bool = False,
) -> Detected:
    """Return what each detector can do on a model, the one with most power first, and how it ranks the prompts.

    Args:
        asked: The prompts, each once; those of the group 'control' set the thresholds.
        samples: Images, and the indices of those of each prompt.
        scores: Of detectors that need a network.
        planted: Captions of planted canaries, as `comparable` writes them, with how often an epoch holds each: where there are any, power
            is that on them, else that on training captions.
        private: Leave out the prompts.
    """
    images, of_prompt = samples
    every = dict(scores)
    every["agreement"] = {
        one.key: agreement(images[those])
        for one, those in zip(asked, of_prompt, strict=True)
        if len(those) > 1
    }
    control = [one.key for one in asked if one.group == "control"]
    trained = {one.key: one.repeats for one in asked if one.group == "train"}
    canaries: dict[str, int | None] = {key: times for key, times in planted.items() if key in trained}
    of_level: dict[int | None, list[str]] = defaultdict(list)
    for text, times in (canaries or trained).items():
        of_level[times].append(text)
    levels = sorted(of_level.items(), key=lambda one: -(one[0] or 0))
    kinds = [key for key in DETECTORS if every.get(key)]
    found = [_detector(key, every[key], control, levels, len(kinds)) for key in kinds]
    found.sort(key=lambda one: -(one.power or 0.0))  # stable: agreement stands first among equals
    alone = text_alone(_some(list(trained)), _some(control))
    differ = alone is not None and alone.low > 0.5
    first = next((one for one in found if one.usable), found[0] if found else None)
    first = None if first is None or not first.controls else first
    ranked = [] if first is None else _ranked(asked, every[first.key], control, private)
    record = DetectorsRecord(
        private=private,
        sentence=_sentence(found, first, bool(trained)),
        reference="canaries" if canaries else "training captions" if trained else "none",
        detectors=found,
        text_alone=alone,
        texts_differ=differ,
        ranked_by=None if first is None else first.key,
        ranked=ranked[:_RANKED],
        notes=_notes(len(control), bool(canaries), alone if differ else None),
    )
    return Detected(record, asked, every)


def _ranked(
    asked: Sequence[AskedPrompt], scores: Mapping[str, float], control: Sequence[str], private: bool
) -> list[RankedPrompt]:
    nulls = np.array([scores[key] for key in control if key in scores])
    rows = [(scores[one.key], one) for one in asked if one.group != "control" and one.key in scores]
    rows.sort(key=lambda row: -row[0])
    return [
        RankedPrompt(
            prompt=None if private else one.text,
            prompt_hash=prompt_hash(one.text),
            group=one.group,
            repeats=one.repeats,
            score=score,
            p_value=(1 + int((nulls >= score).sum())) / (1 + len(nulls)),
        )
        for score, one in rows
    ]


def _sentence(found: Sequence[DetectorRecord], first: DetectorRecord | None, trained: bool) -> str:
    if first is None:
        return "Scores say nothing here: there are no control prompts to hold them against."
    if not trained:
        return (
            f"Prompts are ranked by {first.title.lower()}. Whether a high score means memory of an image is not known here: that takes the"
            " training set, or canaries."
        )
    if not first.usable:
        return "No detector is shown to tell trained prompts from control prompts of this model: their scores say nothing here."
    good = [one.title.lower() for one in found if one.usable]
    bad = [one.title.lower() for one in found if not one.usable]
    text = f"Detectors with power on this model, the most first: {', '.join(good)}."
    return f"{text} Not usable here: {', '.join(bad)}." if bad else text


def _notes(controls: int, canaries: bool, differ: Area | None) -> list[str]:
    found = []
    if controls < _LEAST_CONTROLS:
        found.append(
            f"There are {controls} control prompts; a threshold with at most 5% false alarms takes {_LEAST_CONTROLS}."
        )
    if differ is not None:
        found.append(
            "The lists differ already: a classifier that sees only the texts tells training captions from control prompts, area"
            f" {differ.value:.3f} [{differ.low:.3f}, {differ.high:.3f}]. What detectors find may be the kind of text."
            + ("" if canaries else " Canaries, which a draw divides, would tell.")
        )
    return found


def _some(texts: Sequence[str]) -> Sequence[str]:
    return texts[:: max(1, len(texts) // _MOST_TEXTS)]


def _detector(
    key: DetectorKey,
    scores: Mapping[str, float],
    control: Sequence[str],
    levels: Sequence[tuple[int | None, Sequence[str]]],
    detectors: int,
) -> DetectorRecord:
    nulls = np.array([scores[text] for text in control if text in scores], np.float64)
    cut = threshold_of(nulls)
    records = []
    for repeats, texts in levels:
        own = np.array([scores[text] for text in texts if text in scores], np.float64)
        if not len(own) or not len(nulls):
            continue
        p = rank_sum_p_value(own, nulls)
        records.append(
            DetectorLevel(
                repeats=repeats,
                prompts=len(own),
                found=None if cut is None else Rate(int((own > cut[0]).sum()), len(own)),
                auc=area_under_curve(own, nulls) if min(len(own), len(nulls)) > 1 else None,
                p_value=p,
                shown=p <= _LEVEL / (len(levels) * detectors),
            )
        )
    shares = [one.found.value for one in records if one.found is not None]
    title, measures = DETECTORS[key]
    return DetectorRecord(
        key=key,
        title=title,
        measures=measures,
        controls=len(nulls),
        threshold=None if cut is None else cut[0],
        false_alarms=None if cut is None else cut[1],
        levels=records,
        power=float(np.mean(shares)) if shares else None,
        usable=any(one.shown for one in records) if records else None,
    )


def text_alone(trained: Sequence[str], control: Sequence[str]) -> Area | None:
    """Return how well the texts alone tell training captions from control prompts, with a 99% interval: 0.5 where a draw divided them.

    Logistic regression on sequences of one to four characters, judged on other folds than it was fitted to. Texts that have half of all
    their words in common are kept in one fold, unless that leaves a fold without one of the kinds.

    Args:
        trained: Training captions.
        control: Control prompts.

    Returns:
        None of fewer than 20 texts of a kind.
    """
    if min(len(trained), len(control)) < _LEAST_TEXTS:
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, StratifiedKFold
    from sklearn.pipeline import make_pipeline

    texts = [*trained, *control]
    kind = np.repeat([1, 0], [len(trained), len(control)])
    families = _families(texts)
    folds = [] if len(set(families)) < _FOLDS else list(GroupKFold(_FOLDS).split(texts, kind, families))
    if not folds or any(len(set(kind[fitted])) < 2 for fitted, _ in folds):
        # A list of one template is one family, and what tells it apart is the template.
        folds = list(StratifiedKFold(_FOLDS, shuffle=True, random_state=0).split(texts, kind))
    values = np.zeros(len(texts))
    for fitted, judged in folds:
        model = make_pipeline(
            TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True),
            LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced"),
        )
        model.fit([texts[at] for at in fitted], kind[fitted])
        values[judged] = model.decision_function([texts[at] for at in judged])
    return area_under_curve(values[kind == 1], values[kind == 0], 0.99)


def _families(texts: Sequence[str]) -> list[int]:
    """Return a number for each text, the same for texts that share at least half of the words that either has."""
    words = [frozenset(comparable(text).split()) for text in texts]
    having: dict[str, list[int]] = defaultdict(list)
    for at, those in enumerate(words):
        for word in those:
            having[word].append(at)
    family = list(range(len(texts)))

    def root(at: int) -> int:
        while family[at] != at:
            family[at] = family[family[at]]
            at = family[at]
        return at

    for at, those in enumerate(words):
        shared: dict[int, int] = defaultdict(int)
        for word in those:
            for other in having[word]:
                shared[other] += 1
        for other, count in shared.items():
            if 2 * count >= len(those | words[other]):
                family[root(at)] = root(other)
    return [root(at) for at in range(len(texts))]
