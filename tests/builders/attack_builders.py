"""What attacks find, as records: membership, exposure, FLIPD."""

from __future__ import annotations

from diffmem.attacks.exposure import ExposureRecord, ReproducedRecord
from diffmem.attacks.flipd_record import FlipdRecord
from diffmem.attacks.membership import MembershipRecord
from diffmem.attacks.roc import Area
from diffmem.memorization.rates import Rate


def rate(count, total):
    return Rate(count, total)


def make_area(value, half=0.02, members=1280, nonmembers=1275):
    return Area(
        value=value,
        low=value - half,
        high=value + half,
        members=members,
        nonmembers=nonmembers,
        confidence=0.95,
        method="delong",
    )


def make_attack(attack="loss", auc=0.713, warnings=()):
    return MembershipRecord(
        attack=attack,
        protocol=f"{attack}/v1/levels=10",
        sigmas=[0.05, 0.2113, 0.8],
        seed=17,
        members=1280,
        nonmembers=1275,
        shared=2,
        member_copies=3,
        nonmember_copies=4,
        auc=make_area(auc),
        target_fpr=0.01,
        threshold=-0.03217,
        tpr=rate(87, 640),
        fpr=rate(9, 637),
        without_model={"brightness": make_area(0.503), "size": make_area(0.497)},
        class_mix_p=0.4179,
        warnings=list(warnings),
        notes=["2 images were in both sets and were removed from both."],
    )


def make_exposure(source="model"):
    reproduced = ReproducedRecord(
        planted=rate(5, 8), control=rate(0, 8), samples=rate(23, 10_000), threshold=1 / 3
    )
    return ExposureRecord(
        source=source,
        protocol=f"exposure/{source}",
        canaries=8,
        repeats=64,
        training_fingerprint="f" * 64,
        samples=None if source == "model" else 10_000,
        exposures=[3.17, 3.17, 2.1699, 3.17, 1.585, 3.17, 0.847, 3.17],
        mean=2.5566,
        by_chance=0.9373,
        greatest=3.1699,
        p_value=0.00132,
        smallest_p=7.77e-05,
        auc=make_area(0.931, 0.06, 8, 8),
        reproduced=None if source == "model" else reproduced,
        planted_scores=[-0.0123, -0.0217, -0.0131, -0.0112, -0.0541, -0.0192, -0.0913, -0.0144],
        control_scores=[-0.1123, -0.1217, -0.1131, -0.1112, -0.1541, -0.1192, -0.1913, -0.0544],
        finding="exposed",
        sentence=f"The planted canaries have a mean exposure of 2.56 bits by the {source}.",
    )


def make_flipd():
    def quantiles(low):
        return {
            share: low + 7.77 * at
            for at, share in enumerate(("0", "0.05", "0.25", "0.5", "0.75", "0.95", "1"))
        }

    return FlipdRecord(
        protocol="flipd/clean/sigma=0.05/hutchinson 16/seed=3/autograd",
        sigma=0.0523,
        dimension=3072,
        trace="hutchinson",
        probes=16,
        derivative="autograd",
        standard_error=4.1317,
        images=128,
        samples=quantiles(211.3),
        planted=quantiles(12.41),
        control=quantiles(401.9),
        unmarked=quantiles(233.7),
        auc=make_area(0.953, 0.03, 8, 8),
        p_value=0.0021,
        threshold=233.7,
        false_alarm=1 / 9,
        planted_below=rate(6, 8),
        samples_below=rate(4, 128),
        sentence="Half of the samples have fewer than 235 local dimensions.",
        notes=["The model has classes and the samples images have no labels: it was evaluated without."],
    )
