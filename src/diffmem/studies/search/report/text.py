"""A search for EMM as people read it: what each level found, what to know before using it, how it was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from diffmem.reports.text import large_text, sentence, shared_texts, size_text, target_text, threshold_text
from diffmem.studies.emm import ONE_RUN_PER_SIZE
from diffmem.studies.report.levels import numeric
from diffmem.studies.report.text import NULL_RATE_WORTH_A_WARNING, emm_text, ends_text
from diffmem.studies.search.records import CostRecord, LevelRecord, PointRecord, SearchResult, SizeRecord
from diffmem.text import count_text, percent

__all__ = [
    "cost_text",
    "lead",
    "level_answer",
    "level_emm",
    "level_label",
    "method_text",
    "points_text",
    "search_runs",
    "search_warnings",
    "share_text",
]

_OTHERWISE = {
    "above largest": "above the largest size allowed",
    "below smallest": "below the smallest size allowed",
    "not monotone": "not monotone",
    "unfinished": "unfinished",
    "no runs": "not started",
}


def search_runs(result: SearchResult) -> list[SizeRecord]:
    """Return every run of every level, level by level."""
    return [run for level in result.levels for run in level.runs]


def level_label(name: str, result: SearchResult) -> str:
    """Return a level's name where it stands alone: a bare number says what it is a number of."""
    return f"{result.factor} = {name}" if _numeric(result) else name


def _numeric(result: SearchResult) -> bool:
    return numeric([level.name for level in result.levels])


def _status(level: LevelRecord) -> str:
    """Return the status of a level's EMM; 'no runs' also where the search has not come to the level yet."""
    return "no runs" if level.emm.status == "unfinished" and not level.runs else level.emm.status


def level_emm(level: LevelRecord, result: SearchResult) -> str:
    """Return EMM of a level in a few words, as `emm_text`, and 'no runs yet' before its first run."""
    if _status(level) == "no runs":
        return "no runs yet"
    return emm_text(level.emm, [run.size for run in level.runs] or list(result.sizes))


def level_answer(level: LevelRecord, result: SearchResult) -> str:
    """Return what was found for a level, and the paper's value if it is known, in one to three sentences."""
    emm, ends = level.emm, ends_text(level.emm)
    sizes = [run.size for run in level.runs] or list(result.sizes)
    smallest, largest = size_text(min(sizes)), size_text(max(sizes))
    interval = f" ({100 * result.confidence:.4g}% interval {ends})" if " to " in ends else ""
    answers = {
        "estimated": f"EMM is about {size_text(emm.value or 0)} training images{interval}.",
        "above largest": (
            f"EMM is above {largest}: even {largest} training images, the most that were allowed, are memorized."
        ),
        "below smallest": (
            f"EMM is below {smallest}: not even {smallest} training images, the fewest that were allowed, are memorized."
        ),
        "not monotone": (
            "EMM is not one number: R_mem is not monotone. A larger size certainly reaches"
            f" {target_text(result.epsilon)} and a smaller one certainly does not"
            f"{f'; this happens within {ends} training images' if ends else ''}."
        ),
        "unfinished": (
            "EMM is not known yet, the search is not finished:"
            f" {f'so far it is {ends} training images' if ends else 'no size is decided so far'}."
        ),
        "no runs": "EMM is not known yet: no training has started.",
    }
    paper = "" if level.published is None else f" The paper: {size_text(level.published)}."
    return answers[_status(level)] + paper


def lead(result: SearchResult) -> str:
    """Answer the question of the search in a few plain sentences, before the answers of its levels."""
    what = (
        f"EMM is the largest number of training images at which at least {target_text(result.epsilon)} of a model's"
        " samples are copies of one of them."
    )
    if not search_runs(result):
        return f"No training has started yet, so nothing can be said about memorization. {what}"
    if len(result.levels) == 1:
        return f"{level_answer(result.levels[0], result)} {what}"
    found = []
    answered = [level for level in result.levels if level.emm.status == "estimated"]
    known = sorted(
        ((level.emm.value, level) for level in answered if level.emm.value), key=lambda pair: pair[0]
    )
    if len(known) > 1:
        (low, first), (high, last) = known[0], known[-1]
        at = "at " if _numeric(result) else ""
        found.append(
            f"By {result.factor}, EMM goes from about {size_text(low)} training images ({at}{first.name}) to about"
            f" {size_text(high)} ({at}{last.name})."
        )
        if first.emm.high is not None and last.emm.low is not None and last.emm.low <= first.emm.high:
            found.append("Their intervals overlap, so it is not certain that they differ.")
    elif known:
        value, level = known[0]
        found.append(
            f"Of {len(result.levels)} levels only {level_label(level.name, result)} has a number for EMM: about"
            f" {size_text(value)} training images."
        )
    else:
        found.append(
            f"None of the {len(result.levels)} levels has a number for EMM{'' if result.finished else ' yet'}."
        )
    others = Counter(_status(level) for level in result.levels if level.emm.status != "estimated")
    if others:
        kinds = [
            f"{count_text(count, 'level is', 'levels are')} {_OTHERWISE[status]}"
            for status, count in others.items()
        ]
        found.append(f"{'Besides, ' if known else ''}{', '.join(kinds)}.")
    if not result.finished:
        found.append("The search is not finished.")
    return " ".join([*found, what])


def share_text(cost: CostRecord) -> str:
    """Return what was spent as a share of the grid: '12%', '0.4%', or '–' where there is no grid."""
    if not cost.grid_units:
        return "–"
    share = 100 * cost.share
    return f"{share:.0f}%" if share >= 10 or share == 0 else f"{share:.1f}%"


def points_text(result: SearchResult, point: Callable[[SizeRecord], PointRecord | None]) -> str:
    """Return one point of every run with its verdict, level by level; of a run without it, nothing."""
    parts = []
    for level in result.levels:
        found = [
            f"{size_text(run.size)} images {percent(one.memorized.value)} at epoch {size_text(one.epoch)} ({run.verdict})"
            for run in level.runs
            if (one := point(run)) is not None
        ]
        parts.append(f"{level.name}: {', '.join(found) or 'nothing measured yet'}")
    return "; ".join(parts)


def cost_text(result: SearchResult) -> str:
    """Compare the cost of the whole search with the grid's, in a sentence."""
    cost = result.cost
    spent = (
        f"{count_text(cost.runs, 'run', 'runs')}{'' if result.finished else ' so far'}:"
        f" {large_text(cost.images_trained)} images trained on and"
        f" {large_text(cost.images_sampled)} images sampled"
    )
    if not cost.grid_units:
        return f"{spent}."
    return f"{spent}, {share_text(cost)} of the cost of a fixed grid."


def search_warnings(result: SearchResult) -> list[str]:
    """Return what to know before using the numbers: notes, caveats of EMM, undecided runs, null rates, incidents."""
    notes = [(level_label(level.name, result), note) for level in result.levels for note in level.emm.notes]
    warnings = [
        *result.notes,
        *shared_texts([one for one in notes if one[1] != ONE_RUN_PER_SIZE], len(result.levels)),
    ]
    answered = any(level.emm.status == "estimated" for level in result.levels)
    if ONE_RUN_PER_SIZE in [note for _, note in notes] or (answered and len(result.seeds) == 1):
        warnings.append(ONE_RUN_PER_SIZE)
    runs = search_runs(result)

    undecided = [run for run in runs if run.verdict == "undecided"]
    if undecided:
        warnings.append(
            f"{count_text(len(undecided), 'run was', 'runs were')} not decided within the allowed samples, as R_mem"
            f" is too near {target_text(result.epsilon)} there: {_named(undecided, result)}."
        )
    hopeless = [run for run in runs if run.stopped == "hopeless"]
    if hopeless:
        warnings.append(
            f"{count_text(len(hopeless), 'training was', 'trainings were')} stopped by the futility rule before the"
            " last epoch: their verdicts are extrapolated from the learning curve:"
            f" {_named(hopeless, result)}."
        )
    high = [run for run in runs if run.null is not None and run.null.value > NULL_RATE_WORTH_A_WARNING]
    if high:
        most = max(run.null.value for run in high if run.null is not None)
        warnings.append(
            f"The rule also flags up to {percent(most)} of held-out images, which are not copies, so R_mem may"
            f" overstate copying by about as much: {_named(high, result)}."
        )
    without = [run for run in runs if run.null is None and run.verdict != "unfinished"]
    if without:
        warnings.append(
            f"{count_text(len(without), 'run has', 'runs have')} no null rate: how often the rule flags images by"
            " chance is not known there."
        )
    warnings += [f"{_name(run, result)}: {sentence(incident)}" for run in runs for incident in run.incidents]
    return list(dict.fromkeys(warnings))


def _name(run: SizeRecord, result: SearchResult) -> str:
    level = f"{level_label(run.level, result)}, " if len(result.levels) > 1 else ""
    seed = f", seed {run.seed}" if len(result.seeds) > 1 else ""
    return f"{level}N\u00a0=\u00a0{run.size:,}{seed}"


def _named(runs: Sequence[SizeRecord], result: SearchResult, letters: int = 160) -> str:
    """Return the runs by level, '8x8 at N = 96, 104 (seed 1); 4x4 at N = 210', as many as about so many letters hold."""
    parts: list[str] = []
    shown = 0
    for level in result.levels:
        here = [run for run in runs if run.level == level.name]
        if not here or sum(map(len, parts)) > letters:
            continue
        several = len(result.seeds) > 1
        sizes = ", ".join(f"{run.size:,}{f' (seed {run.seed})' if several else ''}" for run in here)
        name = f"{level_label(level.name, result)} at " if len(result.levels) > 1 else ""
        parts.append(f"{name}N\u00a0=\u00a0{sizes}")
        shown += len(here)
    return "; ".join(parts) + (f"; and {len(runs) - shown} more" if shown < len(runs) else "")


def method_text(result: SearchResult) -> list[tuple[str, list[str]]]:
    """Return (heading, paragraphs) of how the search was carried out and of what was studied."""
    target, seeds = target_text(result.epsilon), len(result.seeds)
    methods = sorted({point.memorized.method for run in search_runs(result) for point in run.points})
    found = [
        (
            "Copy and R_mem",
            [
                "A generated image is a copy when its distance to the nearest training image is less than"
                f" {threshold_text(result.threshold)} of its distance to the second nearest (Yoon et al., 2023). R_mem is"
                " the fraction of generated images that are copies; the highest over training counts. The null rate is the"
                " rate of the same rule on real images that were not in the training set."
            ],
        ),
        (
            "EMM",
            [
                f"The largest number of training images N at which R_mem is still at least {target} (Gu et al., 2025). The"
                f" search allowed N from {size_text(result.sizes[0])} to {size_text(result.sizes[1])} and"
                f" {count_text(seeds, 'seed', 'seeds')}, and ends when the half-width of the interval is within"
                f" {100 * result.tolerance:.3g}% of EMM.",
                *dict.fromkeys(sentence(level.emm.method) for level in result.levels if level.emm.method),
            ],
        ),
        (
            "When sampling stops",
            [
                "Images are generated in batches of growing size. A confidence sequence tests after each whether R_mem is at least"
                f" {target}; unlike a fixed-sample interval it is valid at any stopping time, so stopping early adds no"
                f" error. At most {result.samples:,} images are generated at one evaluation point."
                + (f" Intervals: {', '.join(methods)}." if methods else "")
            ],
        ),
        (
            "When training stops",
            [
                f"Once R_mem is certainly at least {target} the training ends, because the highest value counts. A"
                " training is 'not memorized' only when every evaluation point is certainly below."
            ],
        ),
        (
            "How sizes are chosen",
            [
                "The search brackets the crossing, then narrows the bracket in log N; training sets are nested: every larger one contains"
                " the smaller ones."
            ],
        ),
        (
            "Cost",
            [
                "A unit is the cost of training on one image once; a generated image counts by its network evaluations."
                " The search is compared with a fixed grid: the same range with sizes spaced by the tolerance,"
                " every one trained to the end, with all images sampled at every evaluation point."
            ],
        ),
    ]  # fmt: skip
    settings = _by_level(
        result,
        lambda level: ", ".join(f"{key} = {value}" for key, value in level.settings.items()) or "nothing",
    )
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return [
        *found,
        ("Data", _by_level(result, lambda level: level.data)),
        ("Model", _by_level(result, lambda level: level.model)),
        ("Training", _by_level(result, lambda level: level.training)),
        ("What a level changes", settings),
        ("Sampling", [result.sampling]),
        ("Measuring protocol", [result.protocol]),
        ("Seeds", [", ".join(map(str, result.seeds))]),
        ("Versions", [versions]),
    ]


def _by_level(result: SearchResult, of: Callable[[LevelRecord], str]) -> list[str]:
    return shared_texts([(level.name, of(level)) for level in result.levels], len(result.levels))
