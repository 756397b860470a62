"""Kill -9 of any process at any moment: the study goes on and ends with the table of an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from search_builders import table, tiny_recipe

from diffmem.studies.search.study import SearchStudy

PROGRAM = Path(__file__).parents[2] / "builders" / "search_program.py"
# Longer trainings than in other tests, so that most kills hit one.
SETTINGS = ("executor={kind: local, processes: 2}", "training.epochs=150", "search.hints=false")


def start(folder, *settings, store=None):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(folder), str(store or folder), *settings],
        start_new_session=True,
        stdout=subprocess.PIPE if store else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def processes_of(driver):
    """The driver and everything that it started, by session."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                words = (place / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(words[3]) == driver.pid and words[0] != "Z":
                found.append(int(place.name))
    return found


def survive(folder, settings, kills, seed, most_wait):
    """Run to the end while killing `kills` processes at random; return how many of the kills hit the driver."""
    rng = random.Random(seed)
    driver, hit, left = start(folder, *settings), 0, kills
    begin = time.monotonic()
    while True:
        assert time.monotonic() - begin < 300 + 60 * kills, "the study does not come to its end"
        with suppress(subprocess.TimeoutExpired):
            driver.wait(rng.uniform(0.2, most_wait) if left else 120)
        if driver.poll() is not None:
            if driver.returncode == 0:
                return hit, kills - left
            if driver.returncode != -signal.SIGKILL:
                raise AssertionError(driver.stderr.read().decode())
            driver = start(folder, *settings)
        elif left:
            victims = processes_of(driver)
            if victims:
                victim = rng.choice(victims)
                try:
                    os.kill(victim, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                left -= 1
                hit += victim == driver.pid


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    driver = start(folder, *SETTINGS)
    assert driver.wait(900) == 0, driver.stderr.read().decode()
    return table(SearchStudy(tiny_recipe(*SETTINGS), folder).result())


@pytest.mark.slow
def test_three_kills_change_nothing(undisturbed, tmp_path):
    survive(tmp_path, SETTINGS, kills=3, seed=1, most_wait=5)
    assert table(SearchStudy(tiny_recipe(*SETTINGS), tmp_path).result()) == undisturbed


@pytest.mark.slow
def test_two_studies_at_once_on_one_store_train_everything_once(undisturbed, tmp_path):
    """Who finds a run leased waits for it: its lock is never asked for while somebody holds it."""
    store = tmp_path / "store"
    both = [start(tmp_path / name, *SETTINGS, store=store) for name in ("one", "two")]
    told = [driver.communicate(timeout=900) for driver in both]
    assert [driver.returncode for driver in both] == [0, 0], told
    for name in ("one", "two"):
        result = SearchStudy(tiny_recipe(*SETTINGS), tmp_path / name, store).result()
        assert table(result) == undisturbed
        assert not any(run.incidents for level in result.levels for run in level.runs)
    assert "in use" not in str(told)
    assert "taken over" not in str(told)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills_change_nothing(undisturbed, tmp_path):
    kills = drivers = 0
    for round_ in range(20):
        folder = tmp_path / str(round_)
        hit, made = survive(folder, SETTINGS, kills=5, seed=round_, most_wait=5)
        assert table(SearchStudy(tiny_recipe(*SETTINGS), folder).result()) == undisturbed, round_
        kills, drivers = kills + made, drivers + hit
        if kills >= 50:
            break
    assert kills >= 50
    assert drivers >= 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_power_cut_in_the_last_write_changes_nothing(undisturbed, tmp_path):
    """The newest file of a killed study is cut short, as a disk may leave it; the study finds that and goes on."""
    for round_ in range(8):
        folder = tmp_path / str(round_)
        driver = start(folder, *SETTINGS)
        try:
            driver.wait(3 + 2 * round_)
        except subprocess.TimeoutExpired:
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        files = [
            path
            for path in folder.rglob("*")
            if path.is_file() and path.stat().st_size and not path.name.startswith(".")
        ]
        if files:
            newest = max(files, key=lambda path: path.stat().st_mtime_ns)
            newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
        driver = start(folder, *SETTINGS)
        assert driver.wait(900) == 0, driver.stderr.read().decode()
        assert table(SearchStudy(tiny_recipe(*SETTINGS), folder).result()) == undisturbed, (round_, newest)
