"""Whole audits, one for each verdict and each end of what a page must hold."""

from __future__ import annotations

from attack_builders import make_attack, make_exposure, make_flipd
from audit_builders import (
    make_audit,
    make_check,
    make_denoising,
    make_matches,
    make_model,
    make_reading,
)

from diffmem.auditing.records import MembershipPart
from diffmem.auditing.verdict import verdict_without_training


def copies_found(count=60, **changes):
    return make_audit(matches=make_matches(count, changes.get("private", False)), **changes)


def three_found():
    return copies_found(3, nulls=10_000)


def none_found(**changes):
    return make_audit(notes=["Samples are gray, training images in colour."], **changes)


def cannot_tell():
    return make_audit(
        samples=120, nulls=400, finding="cannot tell",
        notes_of=["120 samples exclude a share of 2.47% only; 299 are needed for 1.00%."],
    )  # fmt: skip


def private_found():
    return copies_found(private=True, model=make_model(private=True))


def full_audit():
    return copies_found(
        model=make_model(check=make_denoising()),
        sample_check=make_check(),
        readings=[make_reading()],
        membership=MembershipPart(
            attacks=[
                make_attack(warnings=["Brightness alone tells the sets apart: they are not of one source."]),
                make_attack("secmi", 0.694),
            ],
            refused="pia: the model has no noise levels for it.",
        ),
        flipd=make_flipd(),
        exposure=[make_exposure("samples"), make_exposure("model")],
    )


def without_training():
    base = make_audit(nulls=0)
    return base.model_copy(
        update={
            "verdict": verdict_without_training(["What the model itself shows is below."]),
            "inputs": [one for one in base.inputs if one.role == "samples"],
            "space": None,
            "criteria": [],
            "copies": None,
            "distances": [],
            "model": make_model(),
            "flipd": make_flipd(),
        }
    )


def huge():
    return copies_found(60, samples=1_234_567, nulls=987_654, training=123_456_789)


AUDITS = {
    "copies found": copies_found,
    "three of ten thousand": three_found,
    "none found": none_found,
    "no null": lambda: make_audit(nulls=0),
    "cannot tell": cannot_tell,
    "private": private_found,
    "everything": full_audit,
    "without training images": without_training,
    "huge": huge,
}
