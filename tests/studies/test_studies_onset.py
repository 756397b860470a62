import math
from collections import defaultdict

import numpy as np
import pytest
from onset_curves import covered
from reports_search import make_training
from reports_study import make_run

from diffmem.errors import UserError
from diffmem.studies.onset import Curve, curve_of, onset, onset_of_runs, predicted, run_time

EPOCHS = [1, 2, 4, 8, 16, 32]


def curve(percents, size=100, seed=0, total=1000, **more):
    points = [
        (epoch * size, float(epoch), round(percent * total / 100), total)
        for epoch, percent in zip(EPOCHS, percents, strict=False)
    ]
    return Curve(size, seed, points, **more)


def ends(found):
    return found.low, found.high


def test_a_clear_crossing_lies_between_the_evaluations_on_both_sides():
    found = run_time(curve([0, 0, 0, 60, 90, 99]), 0.1)
    assert ends(found) == (400, 800)
    assert 400 < found.value < 800
    assert found.per_epoch == 100


def test_the_value_is_where_the_logit_reaches_the_line_in_the_logarithm_of_images():
    # 20% and 80% are as far from 50% in the logit, so it lies in the middle of the logarithms.
    assert run_time(curve([0, 0, 20, 80]), 0.5).value == pytest.approx(math.sqrt(400 * 800), rel=1e-3)


def test_an_evaluation_that_its_samples_cannot_decide_widens_the_interval():
    assert ends(run_time(curve([0, 0, 10, 60], total=100), 0.1)) == (200, 800)


def test_more_samples_narrow_it():
    assert ends(run_time(curve([0, 0, 12, 60], total=100), 0.1)) == (200, 800)
    assert ends(run_time(curve([0, 0, 12, 60], total=10_000), 0.1)) == (200, 400)


def test_a_line_that_is_never_reached_leaves_the_time_open_above():
    found = run_time(curve([0, 0, 0, 1, 2, 3]), 0.9)
    assert ends(found) == (3200, None)
    assert found.value is None


def test_a_line_that_the_first_evaluation_is_above_leaves_it_open_below():
    found = run_time(curve([60, 80, 90, 95]), 0.1)
    assert ends(found) == (None, 100)
    assert found.value is None


def test_an_evaluation_before_training_is_no_time():
    early = Curve(100, 0, [(0, 0.0, 0, 1000), *curve([60, 80]).points])
    assert ends(run_time(early, 0.1)) == (None, 100)


def test_a_run_without_evaluations_says_nothing():
    found = run_time(Curve(100, 0, []), 0.1)
    assert (*ends(found), found.value, found.per_epoch) == (None, None, None, 100)


def test_rates_that_fall_again_are_noted_and_the_first_crossing_counts():
    found = run_time(curve([0, 0, 60, 0, 60, 90]), 0.3)
    assert ends(found) == (200, 400)
    assert "falls below" in found.note


def test_repeated_images_make_longer_epochs():
    assert Curve(100, 0, [(300, 2.0, 0, 10)]).per_epoch == 150


def test_counts_that_were_looked_at_while_they_grew_need_more_evidence():
    percents = [0, 0, 13, 60]
    assert ends(run_time(curve(percents), 0.1)) == (200, 400)
    assert ends(run_time(curve(percents), 0.1, adaptive=True)) == (200, 800)


@pytest.mark.parametrize("line", [0, 1, 90])
def test_a_line_outside_0_to_1_is_refused(line):
    with pytest.raises(UserError, match=f"line {line} is not a share"):
        run_time(curve([0]), line)


def grown(exponent=1.0, sizes=(64, 128, 256, 512), seeds=2, at=300, spread=0.0):
    """Runs whose R_mem crosses 50% at `at` x 64 images for N = 64, times (N / 64)^exponent."""
    found = []
    for size in sizes:
        for seed in range(seeds):
            half = at * 64 * (size / 64) ** exponent * math.exp(spread * (seed - (seeds - 1) / 2))
            points = []
            for step in range(44):
                seen = round(10 * 64 * 2 ** (step / 3))
                rate = 1 / (1 + (half / seen) ** 3)
                points.append((seen, seen / size, round(2000 * rate), 2000))
            best = [(seen, abs(math.log(seen / 9000))) for seen, *_ in points]
            found.append(Curve(size, seed, points, best))
    return found


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.3])
def test_the_exponent_of_a_power_law_is_found_with_an_interval_around_it(exponent):
    record = onset(grown(exponent))
    for line in record.lines:
        assert line.growth.exponent.low < exponent < line.growth.exponent.high
        assert line.growth.exponent.value == pytest.approx(exponent, abs=0.06)


def test_lines_are_reached_in_their_order_and_each_has_its_law():
    record = onset(grown())
    assert [line.line for line in record.lines] == [0.01, 0.1, 0.9]
    scales = [line.growth.scale.value for line in record.lines]
    assert scales == sorted(scales)
    # R_mem is 90% where (t / t_half)^3 = 9.
    size = record.lines[2].growth.reference
    assert scales[2] == pytest.approx(300 * size * 9 ** (1 / 3), rel=0.05)


def test_a_time_that_does_not_depend_on_the_size_has_exponent_0():
    best = onset(grown()).best_frechet
    assert best.growth.exponent.low < 0 < best.growth.exponent.high
    assert abs(best.growth.exponent.value) < 0.05
    assert best.sizes[0].low < 9000 < best.sizes[0].high


def test_without_frechet_distances_there_is_no_time_of_the_best():
    assert onset([curve([0, 0, 60])]).best_frechet is None


def test_a_size_that_was_not_trained_is_predicted_with_a_wider_interval_the_farther_away():
    line = onset(grown()).lines[1]
    found = predicted(line, [181, 1024, 5120])
    widths = [math.log(one.high / one.low) for one in found.values()]
    assert widths == sorted(widths)
    # (t / t_half)^3 = 1/9 at 10%.
    truth = 300 * 1024 * 9 ** (-1 / 3)
    assert found[1024].low < truth < found[1024].high
    assert found[1024].value == pytest.approx(truth, rel=0.15)
    assert found[1024].epochs.value == pytest.approx(found[1024].value / 1024)


@pytest.mark.parametrize("size", [5121, 6])
def test_a_size_too_far_from_those_trained_is_refused(size):
    with pytest.raises(
        UserError, match=f"Cannot tell for {size:,} images: the trained sizes go from 64 to 512"
    ):
        predicted(onset(grown()).lines[0], [size])


def test_one_size_gives_its_times_and_no_law():
    line = onset(grown(sizes=(64,))).lines[1]
    assert line.growth is None
    assert "3 runs of 2 sizes are needed" in line.unknown
    assert line.sizes[0].low < 300 * 64 * 9 ** (-1 / 3) < line.sizes[0].high
    with pytest.raises(UserError, match="no prediction: cannot tell how it grows"):
        predicted(line, [64])


@pytest.mark.parametrize(
    ("percents", "text"), [([60, 80, 90], "evaluate earlier"), ([0, 0, 0], "train longer")]
)
def test_why_there_is_no_law_says_what_to_do(percents, text):
    assert text in onset([curve(percents), curve(percents, size=200)], [0.1]).lines[0].unknown


def test_the_interval_of_a_size_has_the_scatter_of_the_runs_of_all_sizes():
    narrow, wide = (onset(grown(spread=spread), [0.5]).lines[0].sizes for spread in (0.0, 0.5))
    assert all(two.high / two.low > one.high / one.low for one, two in zip(narrow, wide, strict=True))
    alone = [*grown(sizes=(64, 128), spread=0.5), *grown(sizes=(256,), seeds=1)]
    # One seed at 256, whose scatter is that of the others.
    last = onset(alone, [0.5]).lines[0].sizes[-1]
    assert last.runs == 1
    assert last.high / last.low > narrow[0].high / narrow[0].low


def test_a_size_with_a_run_that_never_got_there_is_open_above():
    open_run = curve([0, 0, 0, 0], seed=1)
    size = onset([curve([0, 0, 60, 90]), open_run], [0.1]).lines[0].sizes[0]
    assert (size.value, size.low, size.high, size.runs) == (None, 200, None, 2)


def test_runs_that_never_got_there_count_in_the_law():
    runs = grown(sizes=(64, 128, 256))
    short = [Curve(one.size, one.seed, one.points[:25]) for one in grown(sizes=(1024,))]
    with_short = onset([*runs, *short], [0.9]).lines[0].growth
    assert with_short.open_runs == 2
    assert with_short.runs == 8
    assert with_short.sizes == (64, 1024)


def test_a_record_is_read_back_as_it_was():
    record = onset(grown(), frechet_of="pixels")
    assert type(record).model_validate_json(record.model_dump_json()) == record
    assert record.frechet_of == "pixels"


def test_a_line_that_chance_comes_near_is_marked():
    flagged = [curve([0, 0, 2, 60], null=0.008), curve([0, 0, 2, 60], seed=1, null=0.003)]
    record = onset(flagged)
    assert [line.near_chance for line in record.lines] == [True, False, False]
    assert "flags 0.8% of held-out images" in record.notes[0]
    assert onset([curve([0, 0, 2, 60], null=0.004)]).notes == []


def test_runs_of_a_grid_give_their_counts_frechet_distances_and_null():
    run = make_run(64, seed=3)
    run = run.model_copy(
        update={
            "evaluations": [
                one.model_copy(update={"frechet": 5.0, "frechet_of": "pixels"}) for one in run.evaluations
            ]
        }
    )
    found = curve_of(run)
    assert (found.size, found.seed, found.null) == (64, 3, run.null.value)
    assert found.points[-1] == (256_000, 4000.0, run.last.memorized.count, 1000)
    assert found.frechet[-1] == (256_000, 5.0)
    assert onset_of_runs([run]).frechet_of == "pixels"


def test_runs_of_a_search_are_tested_as_numbers_that_were_looked_at_while_they_grew():
    training = make_training("8", 100, 200)
    found = curve_of(training)
    assert [point[0] for point in found.points] == [one.images_seen for one in training.evaluations]
    line = onset_of_runs([training], [0.5], adaptive=True).lines[0]
    assert line.runs[0] == run_time(found, 0.5, adaptive=True)


def shares(simulations, **setting):
    found = defaultdict(list)
    for number in range(simulations):
        for what, held in covered(number, **setting)[0].items():
            found[what] += held
    return {what: np.mean(held) for what, held in found.items()}


def test_intervals_of_times_the_exponent_and_predictions_cover_what_is_simulated():
    found = shares(20, line=0.1, scatter=0.1, seeds=2, spacing=2**0.5)
    assert set(found) == {"run", "size", "exponent", "new run at 2x", "new run at 10x"}
    assert min(found.values()) >= 0.85  # 17 of 20; below 16 of 20 has a chance of 0.3% at 95%


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        {"line": 0.1, "scatter": 0.1, "seeds": 2, "spacing": 2**0.5},
        {"line": 0.9, "scatter": 0.2, "seeds": 2, "spacing": 2**0.5, "last": 1500},
    ],
)
def test_in_1000_simulations_they_cover_95_percent(setting):
    assert min(shares(1000, **setting).values()) >= 0.936  # two standard errors below 95%
