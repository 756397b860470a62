"""What a study found, in words: EMM, the answers, the warnings, the cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from diffmem.reports.level_axis import mask_of, numbers_of
from diffmem.reports.text import large_text, sentence, shared_texts, size_text, target_text
from diffmem.runs.records import Evaluation, RunRecord
from diffmem.studies.emm import ONE_RUN_PER_SIZE
from diffmem.studies.records import CostRecord, EmmRecord, LevelRecord, StudyRecord
from diffmem.text import count_text, percent

__all__ = [
    "NOTHING_FINISHED",
    "cost_text",
    "emm_text",
    "ends_text",
    "lead",
    "level_answer",
    "level_emm",
    "level_label",
    "level_text",
    "points_text",
    "runs_of",
    "share_text",
    "verdict_text",
    "warnings_of",
]

_NULL_RATE_WORTH_A_WARNING = 0.02
NOTHING_FINISHED = "No training has finished yet"
_OTHERWISE = {
    "above largest": "above the largest size",
    "below smallest": "below the smallest size",
    "not monotone": "not monotone",
    "unfinished": "unfinished",
    "no runs": "not started",
    "not asked for": "not asked for",
}


def emm_text(emm: EmmRecord, sizes: Sequence[int]) -> str:
    """Return EMM in a few words: '47 [41, 55]', 'above 5,000', 'below 500', where that is not certain 'above 5,000 [from 3,200]'
    and 'below 500 [up to 740]', 'not monotone, 32 to 256', 'unfinished, 64 to 128 so far' or 'unknown'.

    Args:
        sizes: The sizes it tried, in any order.
    """
    if emm.status == "estimated" and emm.value is not None:
        known = emm.low is not None and emm.high is not None
        return size_text(emm.value) + (f" [{ends_text(emm).replace(' to ', ', ')}]" if known else "")
    if emm.status == "above largest" and sizes:
        return f"above {size_text(max(sizes))}" + (f" [from {size_text(emm.low)}]" if emm.low else "")
    if emm.status == "below smallest" and sizes:
        return f"below {size_text(min(sizes))}" + (f" [up to {size_text(emm.high)}]" if emm.high else "")
    if emm.status in ("not monotone", "unfinished"):
        ends = ends_text(emm)
        so_far = " so far" if ends and emm.status == "unfinished" else ""
        return emm.status + (f", {ends}{so_far}" if ends else "")
    return "unknown"


def ends_text(emm: EmmRecord) -> str:
    """Return where EMM lies as far as it is known: '64 to 128', 'at least 64', 'below 128' or nothing."""
    if emm.low is not None and emm.high is not None:
        return f"{size_text(emm.low)} to {size_text(emm.high)}"
    if emm.low is not None:
        return f"at least {size_text(emm.low)}"
    return "" if emm.high is None else f"below {size_text(emm.high)}"


def level_text(name: str) -> str:
    """Return a level's name for a table; a mask '1,0,0' becomes '100'."""
    mask = mask_of(name)
    return name if mask is None else "".join("1" if on else "0" for on in mask)


def level_label(name: str, result: StudyRecord) -> str:
    """Return a level's name where it stands alone: where all names are bare numbers it says what it is a number of."""
    return f"{result.factor} = {name}" if _numeric(result) else level_text(name)


def _numeric(result: StudyRecord) -> bool:
    return all(level.name[:1] in "-+.0123456789" and numbers_of([level.name]) for level in result.levels)


def runs_of(result: StudyRecord) -> Iterator[tuple[LevelRecord, RunRecord]]:
    """Yield every run with its level: level by level, ascending in size, then in seed."""
    for level in result.levels:
        yield from ((level, run) for run in sorted(level.runs, key=lambda run: (run.size, run.seed)))


def _status(level: LevelRecord) -> str:
    """Return the status of a level's EMM; 'no runs' also where the study has not come to the level yet."""
    return "no runs" if level.emm.status == "unfinished" and not level.runs else level.emm.status


def level_emm(level: LevelRecord, result: StudyRecord) -> str:
    """Return EMM of a level in a few words, as `emm_text`, and 'no runs yet' before its first run."""
    if _status(level) == "no runs":
        return "no runs yet"
    return emm_text(level.emm, [run.size for run in level.runs] or result.sizes)


def level_answer(level: LevelRecord, result: StudyRecord) -> str:
    """Return what was found for a level, and the paper's value if it is known, in one to three sentences."""
    emm, ends = level.emm, ends_text(level.emm)
    sizes = [run.size for run in level.runs] or result.sizes
    smallest, largest = min(sizes), max(sizes)
    confidence = f"{100 * result.confidence:.4g}%"
    interval = f" ({confidence} interval {ends})" if " to " in ends else ""
    doubt = f" This is not certain: the {confidence} interval of EMM goes"
    from_below = f"{doubt} down to {size_text(emm.low)}." if emm.low else ""
    from_above = f"{doubt} up to {size_text(emm.high)}." if emm.high else ""

    def highest(size: int) -> str:
        rates = [run.peak.memorized.value for run in level.runs if run.size == size and run.evaluations]
        return f" (R_mem is {percent(max(rates))})" if rates else ""

    answers = {
        "estimated": f"EMM is about {size_text(emm.value or 0)} training images{interval}.",
        "above largest": (
            f"EMM is above {size_text(largest)}: even {count_text(largest, 'training image')}, the most that were tried, are"
            f" memorized{highest(largest)}.{from_below}"
        ),
        "below smallest": (
            f"EMM is below {size_text(smallest)}: not even {count_text(smallest, 'training image')}, the fewest that were tried,"
            f" are memorized{highest(smallest)}.{from_above}"
        ),
        "not monotone": (
            "EMM is not one number: R_mem is not monotone. A larger size certainly reaches"
            f" {target_text(result.epsilon)} and a smaller one certainly does not"
            f"{f'; this happens within {ends} training images' if ends else ''}."
        ),
        "unfinished": (
            "EMM is not known yet, not all trainings are finished:"
            f" {f'so far it is {ends} training images' if ends else 'no size is decided so far'}."
        ),
        "no runs": "EMM is not known yet: no training has started.",
        "not asked for": "EMM was not asked for.",
    }
    paper = "" if level.published is None else f" The paper: {size_text(level.published)}."
    return answers[_status(level)] + paper


def lead(result: StudyRecord) -> str:
    """Answer the question of the study in a few plain sentences, before the answers of its levels."""
    what = (
        f"EMM is the largest number of training images at which at least {target_text(result.epsilon)} of a model's"
        " samples are copies of one of them; trained on more, it copies less."
    )
    if not result.runs:
        return f"{NOTHING_FINISHED}, so nothing can be said about memorization. {what}"
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
        found.append("The study is not finished.")
    return " ".join([*found, what])


def verdict_text(run: RunRecord, result: StudyRecord) -> str:
    """Return the verdict of a run in words; '' where it has none."""
    if result.plan != "onset":
        return run.verdict or ""
    line = target_text(result.epsilon)
    words = {"memorized": f"reached {line}", "not memorized": f"stays below {line}"}
    return words.get(run.verdict or "", run.verdict or "")


def share_text(cost: CostRecord) -> str:
    """Return what was spent as a share of the grid: '12%', '0.4%', or '–' where there is no grid."""
    if not cost.grid_units:
        return "–"
    share = 100 * cost.share
    return f"{share:.0f}%" if share >= 10 or share == 0 else f"{share:.1f}%"


def cost_text(result: StudyRecord) -> str:
    """Return the cost of the whole study, and compare that of a search with the grid's, in a sentence."""
    cost = result.cost
    spent = (
        f"{count_text(cost.runs, 'run', 'runs')}{'' if result.finished else ' so far'}:"
        f" {large_text(cost.images_trained)} images trained on and"
        f" {large_text(cost.images_sampled)} images sampled"
    )
    return f"{spent}, {share_text(cost)} of the cost of a fixed grid." if cost.grid_units else f"{spent}."


def points_text(result: StudyRecord, point: Callable[[RunRecord], Evaluation]) -> str:
    """Return one point of every run that has a curve, with its verdict, level by level."""
    parts = []
    for level in result.levels:
        found = []
        for run in level.runs:
            if run.curve:
                one, verdict = point(run), f" ({run.verdict})" if run.verdict else ""
                words = f"{percent(one.memorized.value)} at epoch {size_text(one.epoch)}"
                found.append(f"{size_text(run.size)} images {words}{verdict}")
        parts.append(f"{level_label(level.name, result)}: {', '.join(found) or 'nothing measured yet'}")
    return "; ".join(parts)


def warnings_of(result: StudyRecord) -> list[str]:
    """Return what to know before using the numbers: notes, caveats of EMM, undecided runs, null rates, incidents."""
    notes = [
        (level_label(level.name, result), note)
        for level in result.levels
        for emm in (level.emm, level.emm_last)
        for note in (emm.notes if emm else [])
    ]
    own = [one for one in notes if one[1] != ONE_RUN_PER_SIZE]
    warnings = [*result.notes, *shared_texts(own, len(result.levels))]
    warnings += [ONE_RUN_PER_SIZE] if len(own) < len(notes) else []
    runs = list(runs_of(result))

    def warn(
        which: Callable[[RunRecord], bool], text: Callable[[list[RunRecord]], str], *, name: bool = True
    ) -> None:
        found = [(level, run) for level, run in runs if which(run)]
        if found:
            words = text([run for _, run in found])
            warnings.append(f"{words}: {_named(found, result)}." if name else words)

    warn(
        lambda run: run.verdict == "undecided",
        lambda found: (
            f"{count_text(len(found), 'run was', 'runs were')} not decided within the allowed samples, as R_mem"
            f" is too near {target_text(result.epsilon)} there"
        ),
    )
    warn(
        lambda run: run.stopped == "hopeless",
        lambda found: (
            f"{count_text(len(found), 'training was', 'trainings were')} stopped by the futility rule before the"
            " last epoch: their verdicts are extrapolated from the learning curve"
        ),
    )
    warn(
        lambda run: run.null is not None and run.null.value > _NULL_RATE_WORTH_A_WARNING,
        lambda found: (
            f"The rule also flags up to {percent(max(run.null.value for run in found if run.null))} of held-out images, which"
            " are not copies, so R_mem may overstate copying by about as much"
        ),
    )
    warn(
        lambda run: run.null is None and run.verdict != "unfinished",
        lambda found: (
            f"{count_text(len(found), 'run has', 'runs have')} no null rate: how often the rule flags images by"
            " chance is not known there."
        ),
        name=False,
    )
    warn(
        lambda run: run.duplicates > 0,
        lambda found: (
            f"{count_text(len(found), 'training set holds', 'training sets hold')} exact duplicates"
            f" (up to {max(run.duplicates for run in found):,}); they were counted as one image each."
        ),
        name=False,
    )
    for level, run in runs:
        warnings += [f"{_named([(level, run)], result)}: {sentence(incident)}" for incident in run.incidents]
    return list(dict.fromkeys(warnings))


def _named(runs: Sequence[tuple[LevelRecord, RunRecord]], result: StudyRecord, letters: int = 160) -> str:
    """Return the runs by level, '8x8 at N = 96, 104 (seed 1); 4x4 at N = 210', as many as about so many letters hold."""
    parts: list[str] = []
    shown = 0
    for level in result.levels:
        here = [run for of, run in runs if of is level]
        if not here or sum(map(len, parts)) > letters:
            continue
        several = len(result.seeds) > 1
        sizes = ", ".join(f"{run.size:,}{f' (seed {run.seed})' if several else ''}" for run in here)
        name = f"{level_label(level.name, result)} at " if len(result.levels) > 1 else ""
        parts.append(f"{name}N\u00a0=\u00a0{sizes}")
        shown += len(here)
    return "; ".join(parts) + (f"; and {len(runs) - shown} more" if shown < len(runs) else "")
