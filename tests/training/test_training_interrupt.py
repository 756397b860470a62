"""Signals become requests that are honoured between two steps."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from diffmem.training.interrupt import StopRequest

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
