import io
import sys
import time
from types import SimpleNamespace

import pytest

from diffmem import progress
from diffmem.progress import NO_PROGRESS, Pace, Stages, part_of, parts_of, show_progress
from diffmem.text import duration_text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 s"),
        (0, "0 s"),
        (42.4, "42 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7800, "2 h 10 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_durations_are_told_as_people_say_them(seconds, words):
    assert duration_text(seconds) == words


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets: `clock[0]` is the time in seconds."""
    now = [1000.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_REPEATS", 1000.0)  # of real time, which decides nothing
    return now


def test_without_a_terminal_there_is_a_line_now_and_then_with_the_time_left(clock, capsys):
    with show_progress("Training", every=10) as tell:
        tell(0, 100)
        clock[0] += 5
        tell(10, 100)  # too soon for a line
        clock[0] += 5
        tell(20, 100, "epoch 3")
        clock[0] += 9
        tell(40, 100)
        clock[0] += 1
        tell(50, 100)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "Training: 20%, 40 s left, epoch 3\nTraining: 50%, 20 s left\n"


def test_resumed_work_counts_only_what_was_done_now(clock, capsys):
    with show_progress("Training", every=10) as tell:
        tell(50, 100)
        clock[0] += 10
        tell(60, 100)
    assert capsys.readouterr().err == "Training: 60%, 40 s left\n"


def test_nothing_is_promised_when_nothing_was_gained_or_all_is_done(clock, capsys):
    with show_progress("Reading", every=10) as tell:
        clock[0] += 10
        tell(5, 100)
        clock[0] += 10
        tell(100, 100)
        clock[0] += 10
        tell(0, 0)
    assert capsys.readouterr().err == "Reading: 5%\nReading: 100%\nReading: 0%\n"


def test_the_first_line_comes_after_ten_seconds_and_then_one_a_minute(clock, capsys):
    with show_progress("Training") as tell:
        for _ in range(130):
            clock[0] += 1
            tell(clock[0] - 1000, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["Training: 1%", "Training: 7%", "Training: 13%"]


def test_work_that_is_silent_has_its_lines_all_the_same(clock, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_REPEATS", 0.01)
    told = io.StringIO()  # from which nothing is taken while another thread writes
    monkeypatch.setattr(sys, "stderr", told)

    def wait_for(*lines):
        while told.getvalue().count("\n") < len(lines):
            time.sleep(0.01)
        assert told.getvalue().splitlines() == list(lines)

    with show_progress("Training", every=60) as tell:
        clock[0] += 10
        wait_for("Training: 0%")
        tell(0, 100, "N = 500")
        clock[0] += 60
        wait_for("Training: 0%", second := "Training: 0%, N = 500")
        tell(10, 100, "N = 500")
        clock[0] += 60  # the time left grows with the silence
        wait_for("Training: 0%", second, "Training: 10%, 18 min 00 s left, N = 500")


def test_quick_work_shows_nothing(capsys):
    with show_progress("Reading") as tell:
        tell(1, 2)
        tell(2, 2)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_goes_away_with_the_error_that_ended_it(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with pytest.raises(ZeroDivisionError), show_progress("Training") as tell:
        tell(1, 4, f"{1 / 0} epochs")
    assert capsys.readouterr().out == ""


def test_no_progress_says_nothing(capsys):
    NO_PROGRESS(1, 2, "note")
    assert capsys.readouterr() == ("", "")


def test_a_part_tells_its_progress_as_a_share_of_the_whole():
    told = []
    part = part_of(lambda done, total, note="": told.append((done, total, note)), 0.5, 0.25)
    part(1, 4, "halfway there")
    part(4, 4)
    part(0, 0)
    assert told == [(0.5625, 1.0, "halfway there"), (0.75, 1.0, ""), (0.5, 1.0, "")]


def test_stages_report_by_their_names_and_weights():
    told = []
    stages = Stages(lambda done, total, note="": told.append((done, total, note)), load=1, search=6, report=1)
    stages.load(1, 2)
    stages.search(1, 2, "space 1")
    stages.report(4, 4)
    assert told == [(0.0625, 1.0, ""), (0.5, 1.0, "space 1"), (1.0, 1.0, "")]
    with pytest.raises(AttributeError, match="judge"):
        _ = stages.judge


@pytest.mark.parametrize(
    ("weights", "expected"), [(None, [0.25, 0.5, 0.75, 1.0]), ([3, 1], [0.375, 0.75, 0.875, 1.0])]
)
def test_parts_of_a_work_follow_each_other_by_their_weights(weights, expected):
    told = []
    for item, part in parts_of(lambda done, total, note="": told.append((done, note)), ["a", "b"], weights):
        part(1, 2, item)
        part(2, 2, item)
    assert told == list(zip(expected, "aabb", strict=True))


def test_a_work_without_parts_reports_nothing():
    assert list(parts_of(NO_PROGRESS, [])) == []


def test_the_time_left_follows_from_what_was_done_since_the_first_report(clock):
    pace = Pace()
    assert pace.seconds_left(50, 100) is None
    clock[0] += 10
    assert pace.seconds_left(70, 100) == 15
    assert pace.seconds_left(100, 100) is None
