import os
import random
import sqlite3
import time

import pytest
from store_builders import Told, child, wait_for_ever

from diffmem.errors import DiffmemError, UserError
from diffmem.runs.store import database
from diffmem.runs.store.database import DamagedDatabaseError, Database, read_database

SCHEMA = ("CREATE TABLE numbers (n INTEGER, words TEXT)",)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store" / "index.sqlite"


def opened(path, told):
    return Database(path, SCHEMA, 3, told)


def put(base, *numbers):
    def work(connection):
        connection.executemany(
            "INSERT INTO numbers VALUES (?, ?)", [(n, f"number {n} " * 20) for n in numbers]
        )

    base.transaction(work)


def numbers_of(connection):
    return [n for (n,) in connection.execute("SELECT n FROM numbers ORDER BY n").fetchall()]


def held(base):
    return base.transaction(numbers_of)


def names(path):
    return sorted(each.name for each in path.parent.iterdir())


def put_one_by_one(connection, path, numbers):
    base = opened(path, print)
    for n in numbers:
        put(base, n)
    connection.send("put")


def open_and_say(connection, path):
    told = Told()
    base = opened(path, told)
    base.refresh()
    put(base, 1)
    connection.send((told, held(base)))
    wait_for_ever(connection)


def test_what_was_put_is_there_when_it_is_opened_again(path, told):
    base = opened(path, told)
    put(base, 1, 2)
    base.close()
    assert held(opened(path, told)) == [1, 2]
    assert told == []


def test_a_database_with_a_log_of_an_earlier_version_keeps_what_it_holds_and_loses_the_log(path, told):
    opened(path, told).close()
    earlier = sqlite3.connect(path)
    earlier.execute("PRAGMA journal_mode=WAL")
    earlier.execute("INSERT INTO numbers VALUES (1, '')")
    earlier.commit()
    earlier.close()
    base = opened(path, told)
    put(base, 2)
    assert held(base) == [1, 2]
    assert names(path) == ["index.sqlite"]


def test_several_processes_write_at_the_same_time(path, told):
    parts = [range(40), range(40, 80), range(80, 120)]
    with child(put_one_by_one, path, parts[0]) as a, child(put_one_by_one, path, parts[1]) as b:
        base = opened(path, told)
        for n in parts[2]:
            put(base, n)
        assert (a.told(), b.told()) == ("put", "put")
    assert held(base) == list(range(120))
    assert told == []


def test_a_transaction_of_an_error_changes_nothing(path, told):
    base = opened(path, told)

    def work(connection):
        connection.execute("INSERT INTO numbers VALUES (1, '')")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        base.transaction(work)
    assert held(base) == []


def test_who_keeps_it_too_long_is_told(path, told, monkeypatch):
    monkeypatch.setattr(database, "_SECONDS_TO_WAIT", 0.1)
    base, other = opened(path, told), sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DiffmemError, match=r"kept by other processes for more than 0\.1 s"):
        put(base, 1)
    other.execute("ROLLBACK")
    put(base, 1)
    assert held(base) == [1]
    other.close()


def test_a_full_disk_is_one_line_and_nothing_is_lost(path, told):
    base = opened(path, told)
    put(base, 1)
    base._connection.execute("PRAGMA max_page_count=1")
    with pytest.raises(
        DiffmemError, match=r"Cannot use .*index\.sqlite: database or disk is full\."
    ) as raised:
        put(base, *range(2, 2000))
    assert "\n" not in str(raised.value)
    assert held(base) == [1]


def test_a_mistake_in_a_statement_is_no_failure_of_the_machine(path, told):
    with pytest.raises(sqlite3.OperationalError):
        opened(path, told).transaction(lambda connection: connection.execute("SELECT nothing"))


@pytest.mark.parametrize(
    "content", [b"no database at all, but quite a long text" * 100, b"SQLite format 3\0", b"\0" * 9000]
)
def test_what_is_no_database_is_set_aside_and_told(path, told, content):
    path.parent.mkdir()
    path.write_bytes(content)
    base = opened(path, told)
    assert held(base) == []
    assert path.with_name("index.sqlite.damaged").read_bytes() == content
    (text,) = told
    assert text.startswith(f"{path} is damaged (")
    assert text.endswith("It was set aside as index.sqlite.damaged and is rebuilt from the folders.")


def test_an_empty_file_is_a_new_database(path, told):
    path.parent.mkdir()
    path.write_bytes(b"")
    assert held(opened(path, told)) == []
    assert told == []


@pytest.mark.parametrize("share", [0.1, 0.35, 0.6, 0.9])
def test_a_database_cut_short_is_set_aside(path, told, share):
    base = opened(path, told)
    put(base, *range(500))
    base.close()
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    base = opened(path, told)
    assert held(base) == []
    assert len(told) == 1


def test_random_damage_is_set_aside_or_harmless(path, told):
    base = opened(path, told)
    put(base, *range(200))
    base.close()
    content, dice = path.read_bytes(), random.Random(1)
    outcomes = set()
    for number in range(40):
        there = path.parent / str(number) / path.name
        there.parent.mkdir()
        torn = bytearray(content)
        start = dice.randrange(len(torn))
        torn[start : start + 300] = dice.randbytes(300)
        there.write_bytes(torn[: len(content)])
        base = opened(there, told)
        try:
            found = held(base)
        except DamagedDatabaseError as error:
            base.refresh(error)
            found = held(base)
        outcomes.add(len(found) > 0)
        put(base, -5)
        assert -5 in held(base)
        base.close()
    assert outcomes == {True, False}


def test_a_newer_schema_is_left_alone(path, told):
    Database(path, SCHEMA, 4, told).close()
    content = path.read_bytes()
    for use in (lambda: opened(path, told), lambda: read_database(path, 3, numbers_of)):
        with pytest.raises(UserError, match=r"made by a newer version of diffmem \(its schema is 4"):
            use()
    assert path.read_bytes() == content
    assert told == []


def test_an_older_schema_is_set_aside(path, told):
    Database(path, ("CREATE TABLE old (n)",), 2, told).close()
    assert held(opened(path, told)) == []
    assert "is not an index of this version" in told[0]


def test_a_database_of_another_program_is_set_aside_and_kept(path, told):
    path.parent.mkdir()
    theirs = sqlite3.connect(path)
    theirs.execute("CREATE TABLE numbers (n)")
    theirs.execute("PRAGMA user_version=3")
    theirs.commit()
    theirs.close()
    content = path.read_bytes()
    assert held(opened(path, told)) == []
    assert path.with_name("index.sqlite.damaged").read_bytes() == content


@pytest.mark.parametrize("pause", [0, 0.05], ids=["at once", "each after another pause"])
def test_all_who_find_it_damaged_end_with_one_database(path, told, monkeypatch, pause):
    def identity(path, at_once=database._identity):
        found = at_once(path)
        time.sleep(pause * (os.getpid() % 3))
        return found

    monkeypatch.setattr(database, "_identity", identity)
    path.parent.mkdir()
    path.write_bytes(b"x" * 5000)
    with child(open_and_say, path) as a, child(open_and_say, path) as b, child(open_and_say, path) as c:
        found = [each.told() for each in (a, b, c)]
    assert any(said for said, _ in found)
    assert held(opened(path, told)) == [1] * max(len(numbers) for _, numbers in found)
    assert names(path) == ["index.sqlite", "index.sqlite.damaged"]


def test_who_has_it_open_notices_that_it_was_set_aside_or_removed(path, told):
    base, other = opened(path, told), opened(path, told)
    put(base, 1)
    base.is_new = False
    base.refresh()
    assert not base.is_new
    other.refresh(DamagedDatabaseError("It is damaged."))
    put(other, 2)
    base.refresh()
    assert base.is_new
    assert held(base) == [2]
    path.unlink()
    base.refresh()
    assert held(base) == []
    put(base, 3)
    other.close()  # of the one that was removed
    assert held(opened(path, told)) == [3]


def test_a_database_that_was_moved_away_is_not_written(path, told):
    base, other = opened(path, told), opened(path, told)
    other.refresh(DamagedDatabaseError("It is damaged."))
    with pytest.raises(DamagedDatabaseError):
        put(base, 1)


def test_two_who_find_the_same_damage_later_set_aside_one_file(path, told):
    base, other = opened(path, told), opened(path, told)
    damage = DamagedDatabaseError("It is damaged.")
    base.refresh(damage)
    put(base, 1)
    other.refresh(damage)
    assert held(other) == [1]
    assert len(told) == 1


def test_reading_alone_makes_and_changes_nothing(path, told):
    path.parent.mkdir()
    with pytest.raises(DiffmemError, match="unable to open"):
        read_database(path, 3, numbers_of)
    assert names(path) == []
    for content in (b"x" * 5000, b""):
        path.write_bytes(content)
        with pytest.raises(DamagedDatabaseError):
            read_database(path, 3, numbers_of)
        assert names(path) == ["index.sqlite"]
    put(opened(path, told), 1)
    assert read_database(path, 3, numbers_of) == [1]
    with pytest.raises(DiffmemError, match="readonly"):
        read_database(path, 3, lambda connection: connection.execute("INSERT INTO numbers VALUES (2, '')"))


def test_a_closed_database_says_so(path, told):
    base = opened(path, told)
    base.close()
    base.close()
    base.refresh()
    with pytest.raises(DiffmemError, match="is closed"):
        held(base)


def test_any_path_will_do(tmp_path, told):
    base = opened(tmp_path / "50% of? #1 ü" / "index.sqlite", told)
    put(base, 1)
    assert held(base) == [1]
    assert (tmp_path / "50% of? #1 ü" / "index.sqlite").exists()
