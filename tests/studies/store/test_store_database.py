import random
import shutil
import sqlite3
import threading

import pytest
from store_builders import Told, child, wait_for_ever

from diffmem.errors import DiffmemError, UserError
from diffmem.studies.store import database
from diffmem.studies.store.database import DamagedDatabaseError, Database

SCHEMA = ("CREATE TABLE numbers (n INTEGER, words TEXT)",)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store" / "index.sqlite"


def opened(path, told, **options):
    return Database(path, SCHEMA, 3, warn=told, **options)


def put(base, *numbers):
    def work(connection):
        connection.executemany(
            "INSERT INTO numbers VALUES (?, ?)", [(n, f"number {n} " * 20) for n in numbers]
        )

    base.transaction(work)


def held(base):
    return [
        n for (n,) in base.transaction(lambda c: c.execute("SELECT n FROM numbers ORDER BY n").fetchall())
    ]


def journal(base):
    return base._connection.execute("PRAGMA journal_mode").fetchone()[0]


def names(path):
    return sorted(each.name for each in path.parent.iterdir() if not each.name.startswith("."))


def put_and_wait(connection, path, numbers):
    base = opened(path, print)
    put(base, *numbers)
    connection.send("put")
    wait_for_ever(connection)


def put_one_by_one(connection, path, numbers):
    base = opened(path, print)
    for n in numbers:
        put(base, n)
    connection.send("put")


def open_and_say(connection, path):
    told = Told()
    base = opened(path, told)
    put(base, 1)
    connection.send((told, held(base)))
    wait_for_ever(connection)


def test_what_was_put_is_there_when_it_is_opened_again(path, told):
    base = opened(path, told)
    put(base, 1, 2)
    base.close()
    assert held(opened(path, told)) == [1, 2]
    assert told == []


def test_a_disk_of_this_machine_has_a_write_ahead_log_and_any_other_has_none(path, told, monkeypatch):
    monkeypatch.setattr(database, "is_local", lambda folder: True)
    base = opened(path, told)
    assert journal(base) == "wal"
    put(base, 1)
    base.close()
    monkeypatch.setattr(
        database, "is_local", lambda folder: False
    )  # the folder was moved, or is reached from elsewhere
    base = opened(path, told)
    assert journal(base) == "delete"
    base.close()
    monkeypatch.setattr(database, "is_local", lambda folder: True)
    base = opened(path, told)
    assert journal(base) == "delete"  # others may still come over the network
    assert held(base) == [1]


def test_a_log_that_is_in_use_is_not_changed_from_afar(path, told, monkeypatch):
    monkeypatch.setattr(database, "_SECONDS_OF_PATIENCE", 0.2)
    monkeypatch.setattr(database, "is_local", lambda folder: True)
    with child(put_and_wait, path, [1]) as other:
        other.told()
        monkeypatch.setattr(database, "is_local", lambda folder: False)
        with pytest.raises(DiffmemError, match=r"kept by other processes|in use on the machine"):
            opened(path, told)


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
    monkeypatch.setattr(database, "_SECONDS_OF_PATIENCE", 0.1)
    base, other = opened(path, told), sqlite3.connect(path, isolation_level=None)
    base._connection.execute("PRAGMA busy_timeout=10")
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
    with pytest.raises(DiffmemError, match=r"Cannot write .*index\.sqlite: the disk is full") as raised:
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
    assert path.with_name("index.sqlite.damaged-1").read_bytes() == content
    assert told == [
        f"{path} is damaged; it was set aside as index.sqlite.damaged-1 and is rebuilt from the folders."
    ]


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


def test_a_page_that_was_overwritten_is_found_though_all_others_can_be_read(path, told):
    base = opened(path, told)
    put(base, *range(500))
    base.close()
    content = bytearray(path.read_bytes())
    content[-4096:] = bytes(4096)
    path.write_bytes(content)
    assert held(opened(path, told)) == []
    assert len(told) == 1


def test_a_log_that_others_still_use_is_set_aside_with_its_database(path, told, monkeypatch):
    monkeypatch.setattr(database, "is_local", lambda folder: True)
    base, other = opened(path, told), opened(path, told)
    put(base, 1)
    other.set_aside()
    aside = [name for name in names(path) if "damaged" in name]
    assert aside == ["index.sqlite.damaged-1", "index.sqlite.damaged-1-shm", "index.sqlite.damaged-1-wal"]
    base.close()
    put(other, 2)
    assert held(opened(path, told)) == [2]


def test_damage_is_set_aside_again_and_again_under_new_names(path, told):
    path.parent.mkdir()
    for _ in range(3):
        path.write_bytes(b"x" * 5000)
        opened(path, told).close()
    assert names(path) == ["index.sqlite", *(f"index.sqlite.damaged-{n}" for n in (1, 2, 3))]


def test_a_log_cut_short_loses_the_last_transactions_alone(path, told, monkeypatch):
    monkeypatch.setattr(database, "is_local", lambda folder: True)
    with child(put_one_by_one, path, range(30)) as other, child(put_and_wait, path, [-1]) as living:
        living.told()
        other.told()
        living.kill()  # nobody moved the log into the database
    log = path.with_name("index.sqlite-wal")
    whole = log.read_bytes()
    counts = []
    for number, share in enumerate((0.1, 0.5, 0.97, 1)):
        there = path.parent / str(number) / path.name
        there.parent.mkdir()
        shutil.copy(path, there)
        there.with_name(log.name).write_bytes(whole[: int(share * len(whole))])
        found = held(opened(there, told))
        assert found == sorted(found)
        counts.append(len(found))
    assert told == []
    assert counts == sorted(counts)
    assert counts[1] < counts[3] == 31


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
        except DamagedDatabaseError:
            base.set_aside()
            found = held(base)
        outcomes.add(len(found) > 0)
        put(base, -5)
        assert -5 in held(base)
        base.close()
    assert outcomes == {True, False}


def test_a_newer_schema_is_left_alone(path, told):
    Database(path, SCHEMA, 4, warn=told).close()
    content = path.read_bytes()
    for read_only in (True, False):
        with pytest.raises(UserError, match=r"made by a newer version of diffmem \(its schema is 4"):
            opened(path, told, read_only=read_only)
    assert path.read_bytes() == content
    assert told == []


def test_an_older_schema_is_set_aside(path, told):
    Database(path, ("CREATE TABLE old (n)",), 2, warn=told).close()
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
    assert path.with_name("index.sqlite.damaged-1").read_bytes() == content


def test_one_of_many_who_find_it_damaged_sets_it_aside(path, told):
    path.parent.mkdir()
    path.write_bytes(b"x" * 5000)
    with child(open_and_say, path) as a, child(open_and_say, path) as b, child(open_and_say, path) as c:
        found = [each.told() for each in (a, b, c)]
    assert sum(len(said) for said, _ in found) == 1
    assert len(held(opened(path, told))) == 3
    assert [name for name in names(path) if "damaged" in name] == ["index.sqlite.damaged-1"]


def test_who_has_it_open_notices_that_it_was_set_aside_or_removed(path, told):
    base, other = opened(path, told), opened(path, told)
    put(base, 1)
    assert not base.reopen_if_replaced()
    other.set_aside()
    put(other, 2)
    assert base.reopen_if_replaced()
    assert held(base) == [2]
    for each in (path, path.with_name("index.sqlite-wal"), path.with_name("index.sqlite-shm")):
        each.unlink(missing_ok=True)
    assert base.reopen_if_replaced()
    assert held(base) == []
    put(base, 3)
    other.close()  # of the one that was removed
    assert held(opened(path, told)) == [3]


def test_a_removed_database_leaves_nothing_to_the_next(path, told, monkeypatch):
    monkeypatch.setattr(database, "is_local", lambda folder: True)
    with child(put_and_wait, path, [1, 2]) as other:
        other.told()
        path.unlink()  # and not its log
        base = opened(path, told)
        assert held(base) == []
        put(base, 3)
    assert held(opened(path, told)) == [3]
    assert told == []


def test_two_who_find_the_same_damage_later_set_aside_one_file(path, told):
    base, other = opened(path, told), opened(path, told)
    base.set_aside()
    put(base, 1)
    other.set_aside()
    assert held(other) == [1]
    assert len(told) == 1


def test_reading_alone_makes_and_changes_nothing(path, told):
    path.parent.mkdir()
    with pytest.raises(DamagedDatabaseError):
        opened(path, told, read_only=True)
    assert names(path) == []
    path.write_bytes(b"x" * 5000)
    with pytest.raises(DamagedDatabaseError):
        opened(path, told, read_only=True)
    assert names(path) == ["index.sqlite"]
    path.unlink()
    base = opened(path, told)
    put(base, 1)
    reader = opened(path, told, read_only=True)
    assert held(reader) == [1]
    put(base, 2)
    assert held(reader) == [1, 2]
    with pytest.raises(DiffmemError):
        put(reader, 3)


def test_threads_may_take_turns(path, told):
    base = opened(path, told)
    thread = threading.Thread(target=put, args=(base, 1))
    thread.start()
    thread.join()
    assert held(base) == [1]


def test_a_closed_database_says_so(path, told):
    base = opened(path, told)
    base.close()
    base.close()
    with pytest.raises(DiffmemError, match="is closed"):
        held(base)
    assert base.reopen_if_replaced()
    assert held(base) == []


def test_any_path_will_do(tmp_path, told):
    base = opened(tmp_path / "50% of? #1 ü" / "index.sqlite", told)
    put(base, 1)
    assert held(base) == [1]
    assert (tmp_path / "50% of? #1 ü" / "index.sqlite").exists()
