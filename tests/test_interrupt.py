"""Signals become requests that are honoured between two steps."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from diffmem import interrupt
from diffmem.distributed import World
from diffmem.interrupt import Agreement, StopRequest

BOTH = pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])


def send(kind):
    os.kill(os.getpid(), kind)


@BOTH
def test_a_signal_waits_until_it_is_honoured(kind):
    with StopRequest() as stop:
        stop.honour()
        send(kind)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            stop.honour()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_another_ctrl_c_stops_at_once(first):
    with StopRequest() as stop:
        send(first)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_sigterm_that_follows_still_waits(first):
    with StopRequest() as stop:
        send(first)
        send(signal.SIGTERM)
        assert stop.requested


@BOTH
def test_inside_a_safe_block_a_signal_takes_effect_at_once(kind):
    went_on = []

    def work(stop):
        with stop.at_once():
            send(kind)
            went_on.append(True)

    with StopRequest() as stop:
        with pytest.raises(KeyboardInterrupt):
            work(stop)
        assert stop.requested
    assert went_on == []


@BOTH
def test_what_is_saved_after_a_stop_inside_a_safe_block_is_not_disturbed_by_a_sigterm_that_follows(kind):
    saved = []

    def work(stop):
        with stop.at_once():
            try:
                send(kind)
            finally:
                send(signal.SIGTERM)
                saved.append(True)

    with StopRequest() as stop, pytest.raises(KeyboardInterrupt):
        work(stop)
    assert saved == [True]


@BOTH
def test_after_a_safe_block_signals_wait_again(kind):
    with StopRequest() as stop:
        with stop.at_once():
            pass
        send(kind)
        assert stop.requested


def test_a_request_made_before_a_safe_block_stops_at_its_start():
    with StopRequest() as stop:
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            pytest.fail("the block was entered")


@BOTH
def test_the_handlers_from_before_come_back_even_after_an_error(kind):
    before, inside = signal.getsignal(kind), []

    def work():
        with StopRequest():
            inside.append(signal.getsignal(kind))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert inside != [before]
    assert signal.getsignal(kind) == before


def test_in_another_thread_nothing_changes():
    before, found = signal.getsignal(signal.SIGINT), []

    def work():
        with StopRequest() as stop:
            stop.honour()
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


class Talking(World):
    """A process whose talks are recorded, and whose companions say what the test wants."""

    def gather(self, value):
        talks.append(value)
        return replies(value)

    def any(self, flag):
        return flag or self.size > 1


talks = []


def replies(value):
    return [value, *others]


others = []


@pytest.fixture
def company(monkeypatch):
    talks.clear()
    others.clear()
    clock = [0.0]
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: clock[0])

    def gather_with(*companions):
        others.extend(companions)
        monkeypatch.setattr(interrupt, "world", lambda: Talking(0, 1 + len(companions)))
        return clock

    return gather_with


@pytest.mark.parametrize(("seconds_a_step", "steps"), [(0.1, 5), (2.0, 1), (1e-6, 1000), (0.0, 1000)])
def test_processes_talk_twice_a_second_or_after_each_longer_step(company, seconds_a_step, steps):
    clock = company((False, False, 1))
    with StopRequest() as stop:
        agreement = Agreement(stop)
        for _ in range(1 + 2 * max(steps, 1)):
            clock[0] += seconds_a_step * 1.001
            agreement.reach(False)
    assert [told[2] for told in talks] == [pytest.approx(max(steps, 1), abs=1)] * len(talks)
    assert 3 <= len(talks) <= 4


def test_one_process_alone_decides_after_every_step(company):
    company()
    with StopRequest() as stop:
        agreement = Agreement(stop)
        assert [agreement.reach(save) for save in (False, True, False)] == [
            (False, False),
            (False, True),
            (False, False),
        ]
        send(signal.SIGTERM)
        assert agreement.reach(False) == (True, False)


def test_a_stop_asked_of_another_process_stops_this_one_and_the_first_one_decides_about_saving(company):
    company((True, True, 7))
    with StopRequest() as stop:
        assert Agreement(stop).reach(False) == (True, False)
        assert not stop.requested


def test_a_stop_asked_of_another_process_is_honoured_together(company):
    company((True, False, 1))
    with StopRequest() as stop, pytest.raises(KeyboardInterrupt):
        stop.honour_together()


def test_without_a_request_nothing_is_honoured_together():
    with StopRequest() as stop:
        stop.honour_together()
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            stop.honour_together()
