"""The schedules against the numbers of the study's training code (Gu et al., TMLR 2025)."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffmem.training import EmaConfig, EvaluationConfig, TrainingConfig
from diffmem.training.schedule import (
    ema_beta,
    evaluation_images,
    learning_rate,
    study_snapshots,
    total_images,
)

STUDY = TrainingConfig(rounding="kimg", evaluations=EvaluationConfig(schedule="study"))
EXACT = TrainingConfig()
LATE = 10**10  # images seen, long after every ramp


def with_ema(config=STUDY, **fields):
    batch = fields.pop("batch_size", config.batch_size)
    return config.model_copy(update={"ema": EmaConfig(**fields), "batch_size": batch})


@pytest.mark.parametrize(
    ("size", "epochs", "kimg", "steps", "count", "epochs_between"),
    [
        (500, 40_000, 20_000, 39_063, 8, "5018"),
        (1000, 40_000, 40_000, 78_125, 16, "2509"),
        (2000, 40_000, 80_000, 156_250, 32, "1254"),
        (3000, 40_000, 120_000, 234_375, 48, "836"),
        (5000, 40_000, 200_000, 390_625, 80, "502"),
        (16_000, 40_000, 640_000, 1_250_000, 256, "157"),
        (10_000, 4_000, 40_000, 78_125, 16, "251"),
        (50_000, 12_000, 600_000, 1_171_875, 240, "50.2"),
    ],
)
def test_the_study_trains_and_takes_snapshots_as_its_code_did(
    size, epochs, kimg, steps, count, epochs_between
):
    config = STUDY.model_copy(update={"epochs": epochs})
    points = evaluation_images(config, size)
    assert total_images(config, size) == points[-1] == steps * 512
    assert steps == math.ceil(kimg * 1000 / 512)
    assert len(points) == count
    assert [point // 1000 for point in points[:3]] == [2509, 5018, 7526]
    gaps = {after - before for before, after in itertools.pairwise(points[:-1])}
    assert gaps == {2_508_800}
    digits = len(epochs_between.partition(".")[2])
    assert f"{2_508_800 / size:.{digits}f}" == epochs_between


def test_a_training_shorter_than_one_interval_has_one_snapshot_at_its_end():
    assert study_snapshots(102_400, 512) == [102_400]


@pytest.mark.parametrize("batch", [128, 384, 512, 896])
def test_ticks_of_the_study_are_whole_batches(batch):
    points = study_snapshots(50 * 10**6 // batch * batch, batch)
    assert all(point % batch == 0 for point in points)
    assert points[1] - points[0] == 50 * math.ceil(50_000 / batch) * batch


@given(
    st.floats(0.01, 10_000),
    st.integers(1, 60_000),
    st.integers(1, 1024),
    st.sampled_from(["exact", "kimg"]),
)
def test_training_ends_with_the_first_whole_batch_at_or_past_its_epochs(epochs, size, batch, rounding):
    config = TrainingConfig(epochs=epochs, batch_size=batch, rounding=rounding)
    total = total_images(config, size)
    wanted = epochs * size
    if rounding == "kimg":
        wanted = max(math.floor(wanted / 1000), 1) * 1000
    assert total % batch == 0
    assert total - batch < wanted <= total


def test_the_learning_rate_rises_linearly_from_zero_in_200_epochs_and_stays():
    rates = [learning_rate(STUDY, 1000, seen) for seen in (0, 512, 50_000, 100_000, 200_000, 200_512, LATE)]
    assert rates[0] == 0
    assert rates[1:] == pytest.approx([2e-4 * 512 / 200_000, 0.5e-4, 1e-4, 2e-4, 2e-4, 2e-4], rel=1e-12)


def test_without_warm_up_only_the_first_step_has_no_learning_rate():
    config = TrainingConfig(warmup=0)
    assert [learning_rate(config, 1000, seen) for seen in (0, 512)] == [0, config.learning_rate]


@pytest.mark.parametrize(("size", "images"), [(1000, 200_000), (1004, 200_000), (1005, 201_000)])
def test_the_studys_warm_up_is_a_whole_number_of_thousands(size, images):
    assert learning_rate(STUDY, size, images) == STUDY.learning_rate > learning_rate(STUDY, size, images - 1)


@given(st.integers(1, 500), st.integers(1, 1024), st.sampled_from(["exact", "kimg"]))
def test_mode2_ends_at_the_same_decay_for_every_size_and_batch(hundreds, batch, rounding):
    config = with_ema(TrainingConfig(rounding=rounding), mode="mode2", batch_size=batch)
    assert ema_beta(config, 100 * hundreds, LATE) == pytest.approx(0.5 ** (512 / 500_000), rel=1e-12)
    assert f"{ema_beta(config, 100 * hundreds, LATE):.7f}" == "0.9992905"


@pytest.mark.parametrize(("size", "printed"), [(250, "0.99911"), (550, "0.99922")])
def test_truncated_durations_distort_the_decay_and_exact_ones_do_not(size, printed):
    assert f"{ema_beta(STUDY, size, LATE):.5f}" == printed
    assert f"{ema_beta(EXACT, size, LATE):.5f}" == "0.99929"


def test_mode1_decays_faster_on_small_sets_by_its_formula():
    config = with_ema(mode="mode1")
    betas = [ema_beta(config, size, LATE) for size in (500, 1000, 2000, 50_000)]
    assert betas == pytest.approx([0.5 ** (512 / (10 * size)) for size in (500, 1000, 2000, 50_000)])
    assert betas == sorted(set(betas))


@pytest.mark.parametrize("batch", [128, 512])
@pytest.mark.parametrize("seen", [0, 512, LATE])
@pytest.mark.parametrize("size", [100, 50_000])
def test_mode3_is_constant(batch, seen, size):
    config = with_ema(mode="mode3", batch_size=batch)
    assert ema_beta(config, size, seen) == pytest.approx(0.5 ** (batch / 500_000), rel=1e-12)


@pytest.mark.parametrize("final", [0.99929, 0.999, 0.99, 0.9, 0.8, 0.5, 0.2, 0.1, 0.0])
@pytest.mark.parametrize("size", [100, 1000, 50_000])
@pytest.mark.parametrize("batch", [128, 512])
def test_mode4_ends_at_its_final_decay_exactly(final, size, batch):
    config = with_ema(mode="mode4", final=final, batch_size=batch)
    assert ema_beta(config, size, LATE) == pytest.approx(final, rel=1e-12)


@pytest.mark.parametrize(
    ("mode", "closed_form"),
    [
        ("mode1", lambda size, seen, batch: 0.5 ** (batch / (0.05 * seen))),
        ("mode2", lambda size, seen, batch: 0.5 ** (512 / (0.05 * seen * 50_000 / size))),
        (
            "mode4",
            lambda size, seen, batch: (
                0.9 / 0.5 ** (batch / 500_000) * 0.5 ** (batch / (0.05 * seen * 50_000 / size))
            ),
        ),
    ],
)
@pytest.mark.parametrize("size", [500, 2000])
@pytest.mark.parametrize("batch", [128, 512])
def test_during_the_ramp_the_half_life_is_a_twentieth_of_the_images_seen(mode, closed_form, size, batch):
    config = with_ema(mode=mode, final=0.9, batch_size=batch)
    for epoch in (1, 50, 199):
        seen = epoch * size
        assert ema_beta(config, size, seen) == pytest.approx(closed_form(size, seen, batch), rel=1e-9)
    assert ema_beta(config, size, 0) == 0


@pytest.mark.parametrize("mode", ["mode1", "mode2", "mode4"])
@pytest.mark.parametrize("size", [500, 1000, 50_000])
def test_the_ramp_ends_after_200_epochs(mode, size):
    config = with_ema(mode=mode)
    before, end, late = (ema_beta(config, size, seen) for seen in (199 * size, 200 * size, LATE))
    assert before < end == late


@given(
    st.sampled_from(["mode1", "mode2", "mode3", "mode4"]),
    st.integers(1, 60_000),
    st.integers(1, 1024),
    st.lists(st.integers(0, 10**9), min_size=2, max_size=2),
    st.sampled_from(["exact", "kimg"]),
)
def test_a_decay_lies_between_0_and_1_and_never_falls_during_training(mode, size, batch, seen, rounding):
    config = with_ema(TrainingConfig(rounding=rounding), mode=mode, batch_size=batch)
    early, late = (ema_beta(config, size, images) for images in sorted(seen))
    assert 0 <= early <= late < 1


@given(st.integers(1, 300), st.integers(1, 1024), st.sampled_from(["mode1", "mode2", "mode4"]))
def test_exact_and_truncated_durations_agree_where_the_size_is_a_multiple_of_1000(thousands, batch, mode):
    size = 1000 * thousands
    exact = with_ema(EXACT, mode=mode, batch_size=batch)
    kimg = exact.model_copy(update={"rounding": "kimg"})
    assert total_images(exact, size) == total_images(kimg, size)
    for seen in (0, 100 * size, LATE):
        assert ema_beta(exact, size, seen) == ema_beta(kimg, size, seen)
        assert learning_rate(exact, size, seen) == learning_rate(kimg, size, seen)


def log_points(epochs, batch, count, first, size):
    config = TrainingConfig(
        epochs=epochs, batch_size=batch, evaluations=EvaluationConfig(count=count, first=first)
    )
    return evaluation_images(config, size), total_images(config, size)


@given(
    st.floats(0.1, 10_000),
    st.integers(1, 1024),
    st.integers(1, 20),
    st.floats(1e-3, 1),
    st.integers(1, 60_000),
)
def test_logarithmic_points_are_ascending_whole_batches_that_end_with_training(
    epochs, batch, count, first, size
):
    points, total = log_points(epochs, batch, count, first, size)
    assert points == sorted(set(points))
    assert points[-1] == total
    assert points[0] > 0
    assert all(point % batch == 0 for point in points)
    assert len(points) <= count
    if count > 1:
        ratio = first ** (-1 / (count - 1))
        if first * (ratio - 1) * epochs * size > 1.001 * batch:  # neighbouring points differ by over a batch
            assert len(points) == count


@given(st.integers(100, 60_000), st.integers(100, 60_000), st.integers(1, 512), st.integers(2, 12))
def test_logarithmic_points_lie_at_the_same_epochs_for_all_sizes(small, large, batch, count):
    first, epochs = 0.02, 2000
    expected = [epochs * first ** (1 - i / (count - 1)) for i in range(count)]
    for size in (small, large):
        points, _ = log_points(epochs, batch, count, first, size)
        assert len(points) == count
        for point, epoch in zip(points, expected, strict=True):
            assert epoch * size - 1e-3 <= point <= epoch * size + batch + 1e-3


def test_a_single_logarithmic_point_is_the_end():
    assert log_points(10, 4, 1, 0.02, 6) == ([60], 60)


def doubling(epochs, start=50, per_doubling=2, batch=8):
    evaluations = EvaluationConfig(schedule="doubling", start=start, per_doubling=per_doubling)
    return evaluation_images(TrainingConfig(epochs=epochs, batch_size=batch, evaluations=evaluations), 16)


def test_points_that_double_are_evenly_spaced_in_the_logarithm_and_end_with_the_training():
    points = doubling(800)
    assert points == [16 * epoch for epoch in (50, 71, 100, 141.5, 200, 283, 400, 566, 800)]


def test_more_epochs_add_points_that_double_and_move_none_but_the_end():
    for short, long in ((100, 800), (120, 1000), (799, 801)):
        assert set(doubling(short)[:-1]) <= set(doubling(long))
        assert doubling(short)[-1] == 16 * short


def test_a_training_that_ends_before_the_first_point_is_measured_at_its_end():
    assert doubling(20) == [320]


def test_points_of_tiny_sets_are_whole_batches_without_repetition():
    points = doubling(100, start=1, batch=64)
    assert points == sorted(set(points))
    assert all(point % 64 == 0 for point in points)
