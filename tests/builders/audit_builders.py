"""Audits as records, of every verdict."""

from __future__ import annotations

import hashlib

import numpy as np

from diffmem.auditing.events import group_p_value
from diffmem.auditing.positive_controls import POSITIVE_CONTROLS
from diffmem.auditing.records import (
    AuditResult,
    ChanceTest,
    CopiedRecord,
    CopiesRecord,
    CopyingRecord,
    CriterionRecord,
    DistanceRecord,
    InputRecord,
    MatchRecord,
    ModelRecord,
    PowerRecord,
    ReadingRecord,
    SpaceRecord,
)
from diffmem.auditing.significance import event_p_value, share_of_samples, upper_bound
from diffmem.auditing.verdict import limitations, verdict_of
from diffmem.memorization.plausibility import SampleCheckRecord, SetStatisticsRecord
from diffmem.memorization.rates import Rate, mean_record
from diffmem.optimum.denoising_records import DenoisingCheck, ErrorPoint, ModelReadingRecord

SPACE = "pixel-l2/uint8"
CRITERIA = (
    ("identical", "Identical pixels", f"{SPACE}/identical/v1", "deciding"),
    (
        "ratio",
        "Ratio of the two nearest (R_mem)",
        f"{SPACE}/ratio<0.3333/exact-dups-collapsed/v1",
        "deciding",
    ),
    (
        "repeats",
        "Ratio, near-copies in the training set skipped",
        f"{SPACE}/ratio<0.3333/near-copies-passed-over/n=50/v1",
        "deciding",
    ),
    ("adaptive", "Nearest against the mean of 50", f"{SPACE}/adaptive/v1", "deciding"),
    ("near", "Near in absolute terms", f"{SPACE}/near/v1", "supporting"),
    (
        "inauthentic",
        "Nearer than the training image's own neighbour (AuthPct)",
        f"{SPACE}/authpct/v1",
        "supporting",
    ),
)


STRICTNESS = {
    "identical": (0.5,),
    "ratio": (1 / 3, 1 / 4, 1 / 6, 1 / 10),
    "repeats": (1 / 3, 1 / 4, 1 / 6, 1 / 10),
    "adaptive": (1.0, 0.7, 0.4, 0.2),
    "near": (0.05,),
    "inauthentic": (1.0,),
}


def rate(count, total):
    return Rate(count, total)


def name_of(kind, number):
    return f"{kind}-{number:05d}.png"


def hashed(text):
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def make_match(at, private=False, training=None, variant="as is", **changes):
    training = (at * 37 % 11) * 401 + 12 if training is None else training
    sample = at * 173 + 7
    return MatchRecord(
        **{
            "sample": sample,
            "sample_hash": hashed(f"s{sample}"),
            "sample_name": None if private else name_of("made", sample),
            "training": training,
            "training_hash": hashed(f"t{training}"),
            "training_name": None if private else name_of("person", training),
            "rms": 0.8 + 0.11 * at,
            "ratio": 0.02 + 0.005 * at,
            "variant": variant,
            "criteria": ["ratio", "adaptive"],
        }
        | changes
    )


def make_matches(count, private=False):
    return [
        make_match(at, private, variant="mirrored, 1 px down" if at % 7 == 3 else "as is")
        for at in range(count)
    ]


def copies_of(matches):
    times = {}
    for match in matches:
        times.setdefault(match.training, []).append(match)
    order = sorted(times.items(), key=lambda item: (-len(item[1]), item[0]))
    return CopiesRecord(
        samples=len(matches),
        distinct=len(times),
        most_copied=[
            CopiedRecord(
                training=index,
                training_hash=found[0].training_hash,
                training_name=found[0].training_name,
                times=len(found),
                occurrences=1 + 3 * (place == 0),
            )
            for place, (index, found) in enumerate(order[:50])
        ],
        worst=matches[:50],
    )


def power_of(key, at):
    """Made-up shares that fall from kind to kind."""
    kinds = [kind for kind in POSITIVE_CONTROLS if not kind.near_copies]
    found = []
    for place, kind in enumerate(kinds):
        share = 1.0 if key == "identical" and place == 0 else max(0.0, 1.02 - 0.06 * place - 0.02 * at)
        share = 0.0 if key == "identical" and place else min(share, 1.0)
        found.append(
            PowerRecord(
                key=kind.key,
                kind=kind.text,
                detected=rate(round(200 * share), 200),
                traced=rate(200 - place, 200) if key != "identical" else None,
            )
        )
    return found


def make_tests(strictness, flagged, samples, null_flagged, nulls, finding):
    """Tests at every strictness, as if every flagged sample and every null image were an event of its own."""
    share = share_of_samples(samples, nulls)
    members = np.tile([[1, 0, 1]], (flagged, 1))
    p_values = {
        "fresh": min(event_p_value(flagged, null_flagged, share), 0.0000417 if finding == "copies" else 1.0),
        "groups": group_p_value(members, samples, nulls, 0),
        "split": 0.75 if flagged else 1.0,
    }
    return [
        ChanceTest(
            test=test, strictness=step, flagged=flagged, events=flagged, others=null_flagged, share=share, p_value=p_value,
            level=0.000123,
        )
        for step in strictness
        for test, p_value in p_values.items()
    ]  # fmt: skip


def make_criterion(
    key, title, protocol, role, at, *, flagged, samples, null_flagged, nulls, finding, distinct, notes=()
):
    null = None if nulls == 0 else rate(null_flagged, nulls)
    strictness = STRICTNESS.get(key, (0.5,))
    deciding = role == "deciding"
    return CriterionRecord(
        key=key,
        title=title,
        protocol=protocol,
        role=role,
        exact_only=key == "identical",
        threshold=strictness[0],
        strictness=strictness[0],
        matches=flagged,
        flagged=rate(flagged, samples),
        null=null,
        null_heldout=null,
        null_training=None,
        tests=make_tests(strictness, flagged, samples, null_flagged, nulls, finding) if deciding else [],
        bound=upper_bound(flagged, samples),
        distinct=distinct,
        finding=finding,
        notes=list(notes),
        power=power_of(key, at),
    )


def make_statistics(images, mean):
    return SetStatisticsRecord(
        images=images, drawn=min(images, 2000), channels=3, height=32, width=32, minimum=1, maximum=254, grey_levels=253,
        mean=mean, contrast=61.83, gradient=23.57, neighbour_correlation=0.9137,
    )  # fmt: skip


def make_check(samples=10_000, **changes):
    """A check of samples of which some are constant and some repeat others."""
    fields = {
        "samples": samples,
        "judged": samples - 28,
        "constant": 5,
        "repeats": 23,
        "most_repeated": 19,
        "kind": "plausible",
        "problem": None,
        "notes": ["5 samples are of one colour and were left out."],
        "statistics": {
            "training": make_statistics(50_000, 120.71),
            "samples": make_statistics(samples, 118.37),
        },
        "reading": None,
    }
    return SampleCheckRecord(**(fields | changes))


def make_reading(**changes):
    fields = {
        "text": "EXIF orientation applied",
        "remedy": "--train-read exif=apply",
        "copies": 0,
        "samples": 9_972,
        "criterion": None,
        "same_pictures": 0,
        "median_distance": 31.37,
        "usual_distance": 33.91,
        "fits_better": False,
    }
    return ReadingRecord(**(fields | changes))


def make_distances(samples, nulls, matches):
    """Bell-shaped histograms of 50 bins, the matches on the left."""
    found = []
    for quantity, end, middle, width in (("ratio", 1.0, 0.86, 0.06), ("rms", 61.0, 33.0, 5.0)):
        edges = np.linspace(0, end, 51)
        centres = (edges[1:] + edges[:-1]) / 2
        bell = np.exp(-0.5 * ((centres - middle) / width) ** 2)
        bell /= bell.sum()
        own = np.floor(bell * max(samples - len(matches), 0)).astype(int)
        places = [match.ratio if quantity == "ratio" else match.rms for match in matches]
        own += np.histogram(places, edges)[0]
        found.append(
            DistanceRecord(
                quantity=quantity,
                edges=edges.tolist(),
                samples=own.tolist(),
                null=np.floor(bell * nulls).astype(int).tolist() if nulls else [],
            )
        )
    return found


def make_model(private=False, check=None):
    return ModelRecord(
        source=None if private else "secret-models/network-snapshot.pkl",
        kind="EDM pickle",
        digest="d" * 64,
        sampling="Heun, 18 steps, sigma 0.002 to 80, rho 7",
        seeds=(0, 9_999),
        notes=["Classes are drawn at random, and no guidance is applied."],
        check=check,
    )


def make_denoising(factor=0.3, better=False):
    """A check of a model whose error is this share of that of doing nothing and of the mean image."""
    points = [
        ErrorPoint(
            sigma=sigma,
            middle=sigma in (0.25, 0.5, 1.0),
            model=mean_record([factor * least, 1.1 * factor * least]),
            nothing=mean_record([sigma**2] * 2),
            mean_image=mean_record([0.27, 0.23]),
            gaussian=mean_record([0.45 * least, 0.55 * least]),
            worse=factor > 1,
        )
        for sigma in (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0)
        for least in (min(sigma**2, 0.25),)
    ]
    reading = ModelReadingRecord(
        text="noise_schedule=cosine", remedy="Give --model-set noise_schedule=cosine", images=64,
        errors=[0.5 * point.model.value for point in points], ratio=0.512 if better else 1.734,
        sound=[0.25, 0.5, 1.0] if better else [], overall=0.531 if better else 1.842, lower=better, better=better,
    )  # fmt: skip
    return DenoisingCheck(images=256, deviation=0.5023, points=points, readings=[reading])


def make_copying():
    return CopyingRecord(
        protocol=f"{SPACE}/c_t/v1",
        c_t=-6.417,
        interval=(-8.213, -4.617),
        z=-6.991,
        nearer=0.6123,
        nearer_interval=(0.5871, 0.6372),
        detectable_share=0.0813,
        conclusion="copying",
        notes=["Of 100,000 of the training images, drawn at random."],
    )


def make_audit(
    *,
    matches=(),
    samples=10_000,
    nulls=2_000,
    training=50_000,
    chance_flags=0,
    finding=None,
    notes_of=(),
    private=False,
    shape=(3, 32, 32),
    source="heldout",
    **changes,
):
    """An audit whose deciding criteria but 'identical' flag as many samples as there are matches."""
    matches = list(matches)
    count = len(matches) or chance_flags
    result = finding or ("copies" if count else "none")
    copies = copies_of(matches)
    criteria = []
    for at, one in enumerate(CRITERIA):
        own = one[0] not in ("identical", "repeats")
        criteria.append(
            make_criterion(
                *one, at, flagged=count if own else 0, samples=samples, null_flagged=13 if one[0] == "near" else 0,
                nulls=nulls, finding=result if own else ("none" if result == "copies" else result),
                distinct=copies.distinct if own else 0, notes=notes_of if one[0] == "ratio" else (),
            )
        )  # fmt: skip
    space = SpaceRecord(
        protocol=SPACE,
        shape=shape,
        training_images=training,
        distinct_images=training - 13,
        null_heldout=nulls if source == "heldout" else 0,
        null_training=0 if source == "heldout" else nulls,
        deduplicated=False,
        disagree=[],
        heldout_overlap=3 if source == "heldout" and nulls else 0,
        heldout_near=None,
        heldout_copied=0,
    )
    counted = {"training": training, "heldout": nulls + 3, "samples": samples}
    fields = {
        "title": "Does this model leak its training data?",
        "private": private,
        "seed": 23,
        "target": 0.01,
        "verdict": verdict_of(criteria, copies, space, 0.01),
        "inputs": [
            InputRecord(
                role=role,
                source=None if private else f"secret-{role}.zip",
                images=number,
                shape=shape,
                fingerprint=hashlib.sha256(role.encode()).hexdigest(),
                read=["12 files composited on white."] if role == "training" else [],
                steps=["resized to 32 x 32 with LANCZOS"] if role == "samples" else [],
            )
            for role, number in counted.items()
            if number > 3
        ],
        "model": None,
        "space": space,
        "criteria": criteria,
        "copying": make_copying() if nulls else None,
        "copies": copies,
        "distances": make_distances(samples, nulls, matches),
        "membership": None,
        "limitations": limitations(space, None, False),
        "versions": {"diffmem": "0.6.0", "python": "3.11.9", "torch": "2.6.0", "numpy": "2.1.0", "device": "x86_64 CPU"},
    }  # fmt: skip
    return AuditResult(**(fields | changes))
