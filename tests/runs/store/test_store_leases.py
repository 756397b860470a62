import json
import os
import random
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from store_builders import child, wait_for_ever

from diffmem.files import write_text
from diffmem.runs.store import index as index_module
from diffmem.runs.store.index import RunIndex
from diffmem.runs.store.workers import ProcessId, is_gone, this_process


class Clock:
    """The clocks of this machine, set by hand."""

    def __init__(self):
        self.now, self.steady = 1e9, 50.0

    def pass_(self, seconds):
        self.now += seconds
        self.steady += seconds

    def time(self):
        return self.now

    def monotonic(self):
        return self.steady


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(index_module, "time", made)
    return made


@pytest.fixture
def told():
    return []


@pytest.fixture
def index(tmp_path, told):
    def open_(**options):
        made.append(RunIndex(tmp_path, warn=told.append, **options))
        return made[-1]

    made = []
    yield open_
    for each in made:
        each.close()


def set_lease(index, **values):
    """Change the lease of run r as if another process had written it."""
    names = ", ".join(f"{name} = :{name}" for name in values)
    index._do(lambda connection: connection.execute(f"UPDATE leases SET {names} WHERE run_id = 'r'", values))


def claim_and_wait(connection, store, names):
    index = RunIndex(store, warn=lambda text: None)
    connection.send([name for name in names if index.claim(name, "theirs")])
    wait_for_ever(connection)


def race_for(connection, store, names):
    index, pauses = RunIndex(store, warn=lambda text: None), random.Random(names[0])
    connection.send("ready")
    connection.recv()
    won = []
    for name in names:
        time.sleep(pauses.uniform(0, 5e-4))
        if index.claim(name, "theirs"):
            won.append(name)
    connection.send(won)
    wait_for_ever(connection)


def work_and_watch(connection, store, number):
    """Claim runs and give them back for ever; tell of every run that a living process holds at the same time."""
    index, dice = RunIndex(store, seconds_to_expire=300, warn=lambda text: None), random.Random(number)
    connection.send("ready")
    while True:
        name = dice.choice("abcdef")
        if not index.claim(name, f"study {number}"):
            continue
        mark = store / f"{name}.mark"
        if mark.exists() and (text := mark.read_text()) and not is_gone(ProcessId(**json.loads(text))):
            connection.send(f"{name} is held by {text} and by {os.getpid()}")
        write_text(mark, json.dumps(asdict(this_process())))
        time.sleep(dice.uniform(0, 2e-3))
        if dice.random() < 0.1:
            assert index.beat() == []
        mark.unlink()
        index.release(name)
        if connection.poll():
            return


def kill_at_random(store, kills):
    """Let three processes work, kill one after the other, and return what they told."""
    dice, told = random.Random(kills), []
    with ExitStack() as stack:
        workers = [stack.enter_context(child(work_and_watch, store, number)) for number in range(3)]
        for number in range(kills):
            time.sleep(dice.uniform(0, 0.04))
            place = dice.randrange(3)
            workers[place].kill()
            told += pending(workers[place])
            workers[place] = stack.enter_context(child(work_and_watch, store, 3 + number))
        told += [worker.told() for worker in workers]
        time.sleep(0.2)
        assert all(worker.process.is_alive() for worker in workers)
        told += [text for worker in workers for text in pending(worker)]
        for worker in workers:
            worker.kill()
    return told


def pending(worker):
    found = []
    while worker.connection.poll():
        try:
            found.append(worker.connection.recv())
        except (EOFError, OSError):
            break
    return found


def test_a_run_has_one_owner(index, told):
    a, b = index(), index()
    assert a.claim("r", "study A")
    assert a.claim("r", "study A")
    assert not b.claim("r", "study B")
    assert b.claim("s", "study B")
    held = b.holders().get("r")
    assert (held.study, held.alive) == ("study A", True)
    assert {name: lease.study for name, lease in a.holders().items()} == {"r": "study A", "s": "study B"}
    assert a.holders().get("t") is None
    assert told == []


def test_what_is_given_back_is_free_and_what_is_anothers_is_not_given_back(index):
    a, b = index(), index()
    a.claim("r", "")
    b.release("r")
    assert not b.claim("r", "")
    a.release("r")
    assert a.holders().get("r") is None
    assert b.claim("r", "")
    a.release("r")
    assert not a.claim("r", "")


def test_closing_gives_everything_back(index):
    a, b = index(), index()
    for name in "rst":
        a.claim(name, "")
    b.claim("u", "")
    a.close()
    assert list(b.holders()) == ["u"]


def test_another_process_is_another_owner(tmp_path, index):
    with child(claim_and_wait, tmp_path, ["r"]) as other:
        assert other.told() == ["r"]
        assert not index().claim("r", "")


def race(store, names):
    """Let three processes claim the same runs, in three orders, and return what each of them got."""
    third = len(names) // 3
    orders = [names, names[::-1], names[third:] + names[:third]]
    with ExitStack() as stack:
        racers = [stack.enter_context(child(race_for, store, order)) for order in orders]
        for racer in racers:
            assert racer.told() == "ready"
        for racer in racers:
            racer.connection.send("go")
        return [racer.told() for racer in racers]


def leave_behind(store, names):
    with child(claim_and_wait, store, names) as dead:
        assert dead.told() == names
        dead.kill()


@pytest.mark.parametrize("prepare", [None, leave_behind], ids=["of nobody", "of a dead owner"])
def test_of_processes_that_race_for_leases_one_gets_each(tmp_path, prepare):
    for number in range(20):
        names = [f"{number}-{n}" for n in range(150)]
        if prepare is not None:
            prepare(tmp_path, names)
        got = race(tmp_path, names)
        assert sorted(name for won in got for name in won) == sorted(names)
        if sum(len(won) > 0 for won in got) >= 2:
            return
    pytest.fail("there was no race: each time one was done before the others began")


@pytest.mark.parametrize("kills", [8, pytest.param(80, marks=pytest.mark.slow)])
def test_however_owners_are_killed_a_run_is_never_held_by_two_that_live(tmp_path, kills):
    told = kill_at_random(tmp_path, kills)
    assert set(told) == {"ready"}
    assert [path.name for path in tmp_path.glob("*damaged*")] == []
    with RunIndex(tmp_path) as index:
        assert all(index.claim(name, "after all") for name in "abcdef")


def test_a_dead_owners_lease_is_taken_over(tmp_path, index, told):
    mine = index()
    with child(claim_and_wait, tmp_path, ["r"]) as other:
        assert other.told() == ["r"]
        assert not mine.claim("r", "mine")
        other.kill()
        assert not mine.holders().get("r").alive
        assert mine.claim("r", "mine")
        assert mine.holders().get("r").study == "mine"
        assert told == [
            f"Run r was left by process {other.process.pid} on {mine.holders()['r'].host} (theirs), which is gone or silent;"
            " it is taken over."
        ]


def test_a_lease_of_a_number_that_another_process_has_now_is_taken_over(index):
    a, b = index(), index()
    a.claim("r", "")
    start = this_process().start
    if start is None:
        pytest.skip("the system does not tell when processes started")
    assert not b.claim("r", "")
    set_lease(a, start=start - 1)
    assert b.claim("r", "")
    assert a.beat() == ["r"]


@pytest.mark.parametrize(("age", "ours"), [(0, False), (59, False), (61, True)])
def test_an_owner_elsewhere_is_dead_when_its_heartbeat_is_old(index, clock, age, ours):
    a, b = index(), index()
    a.claim("r", "")
    set_lease(a, place="elsewhere", host="elsewhere", pid=2**22 + 1)
    clock.now += age
    assert b.holders().get("r").alive is not ours
    assert b.claim("r", "") is ours


def test_the_time_to_expire_can_be_chosen(index, clock):
    a, b = index(seconds_to_expire=5), index(seconds_to_expire=5)
    a.claim("r", "")
    clock.pass_(4)
    assert not b.claim("r", "")
    clock.pass_(2)
    assert b.claim("r", "")


def test_beating_keeps_a_lease_and_tells_once_what_was_lost(index, clock):
    a, b = index(), index()
    for name in "rs":
        a.claim(name, "")
    for _ in range(5):
        clock.pass_(50)
        assert a.beat() == []
        assert not b.claim("r", "")
    clock.pass_(61)
    assert b.claim("r", "")
    assert a.beat() == ["r"]
    assert a.beat() == []
    assert not b.claim("s", "")  # late, but nobody had taken it
    assert b.beat() == []


def test_an_owner_whose_clock_runs_ahead_is_dead_when_it_was_seen_silent_for_long_enough(index, clock):
    a, b = index(), index()
    clock.now += 10**6
    a.claim("r", "")
    clock.now -= 10**6
    assert not b.claim("r", "")
    clock.pass_(59)
    assert not b.claim("r", "")
    clock.pass_(2)
    assert b.claim("r", "")


def test_taking_over_starts_a_new_lease(index, clock):
    a, b = index(), index()
    a.claim("r", "")
    clock.pass_(30)
    a.claim("r", "")  # renewed
    assert (a.holders().get("r").since, a.holders().get("r").heartbeat) == (1e9, 1e9 + 30)
    clock.pass_(100)
    b.claim("r", "")
    assert (a.holders().get("r").since, a.holders().get("r").heartbeat) == (1e9 + 130, 1e9 + 130)


class LeasesOfThree(RuleBasedStateMachine):
    """Three owners of one store against a table of who has what."""

    owners = st.integers(0, 2)
    runs = st.sampled_from("rst")

    def __init__(self):
        super().__init__()
        self.clock, self.real = Clock(), index_module.time
        index_module.time = self.clock
        self.store = Path(tempfile.mkdtemp())
        self.indexes = [self.opened() for _ in range(3)]
        self.has, self.beaten, self.lost = {}, {}, [set(), set(), set()]

    def opened(self):
        return RunIndex(self.store, warn=lambda text: None)

    def teardown(self):
        index_module.time = self.real
        for index in self.indexes:
            index.close()
        shutil.rmtree(self.store)

    def alive(self, run):
        return run in self.has and self.clock.now - self.beaten[run] <= 60

    @rule(owner=owners, run=runs)
    def claim(self, owner, run):
        before = self.has.get(run)
        wins = not self.alive(run) or before == owner
        assert self.indexes[owner].claim(run, f"study {owner}") is wins
        if wins:
            if before not in (None, owner):
                self.lost[before].add(run)
            self.lost[owner].discard(run)
            self.has[run], self.beaten[run] = owner, self.clock.now

    @rule(owner=owners, run=runs)
    def release(self, owner, run):
        self.indexes[owner].release(run)
        self.lost[owner].discard(run)
        if self.has.get(run) == owner:
            del self.has[run]

    @rule(owner=owners)
    def beat(self, owner):
        assert self.indexes[owner].beat() == sorted(self.lost[owner])
        self.lost[owner].clear()
        self.beaten |= {run: self.clock.now for run, who in self.has.items() if who == owner}

    @rule(owner=owners)
    def close_and_open(self, owner):
        self.indexes[owner].close()
        self.indexes[owner] = self.opened()
        self.has = {run: who for run, who in self.has.items() if who != owner}
        self.lost[owner].clear()

    @rule(seconds=st.sampled_from([1, 25, 61]))
    def wait(self, seconds):
        self.clock.pass_(seconds)

    @invariant()
    def everyone_sees_who_has_what(self):
        expected = {run: (f"study {who}", self.alive(run)) for run, who in self.has.items()}
        for index in self.indexes:
            assert {run: (lease.study, lease.alive) for run, lease in index.holders().items()} == expected


LeasesOfThree.TestCase.settings = settings(max_examples=15, stateful_step_count=25)
TestLeasesOfThree = LeasesOfThree.TestCase
