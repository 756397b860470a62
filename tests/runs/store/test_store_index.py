import dataclasses
import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from store_builders import MODEL, a_run, child, wait_for_ever

from diffmem.errors import DiffmemError, UserError
from diffmem.runs.store import index as index_module
from diffmem.runs.store.database import DamagedDatabaseError, Database
from diffmem.runs.store.folders import read_entry
from diffmem.runs.store.index import RunIndex, read_index

DAMAGE = DamagedDatabaseError("The index is damaged.")


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def opened(store, told, **options):
    return RunIndex(store, warn=told, **options)


def entries_of(store, told, **options):
    with opened(store, told, **options) as index:
        return index.entries()


def note_all_and_die(connection, store, folders):
    index = RunIndex(store)
    for folder in folders:
        index.note(read_entry(folder))
    connection.send("noted")
    wait_for_ever(connection)


def without_rights(work, *arguments):
    """Do something as a user who may not write where others own; return the error's text, if any."""
    ours, theirs = os.pipe()
    number = os.fork()
    if not number:
        text = ""
        try:
            if not os.geteuid():
                os.setuid(65534)
            work(*arguments)
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(theirs, text.encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as stream:
        text = stream.read()
    os.waitpid(number, 0)
    return text


def test_a_new_store_gets_an_empty_index(store, told):
    with opened(store, told) as index:
        assert index.entries() == []
    assert (store / "index.sqlite").exists()
    assert told == []


def test_the_runs_of_the_folders_are_there_from_the_start(store, told):
    runs = [a_run(store, size, seed, points=2) for size, seed in [(8, 0), (4, 1), (4, 0)]]
    found = entries_of(store, told)
    assert [entry.run_id for entry in found] == [run.run_id for run in runs[::-1]]
    assert found == [read_entry(run.folder) for run in runs[::-1]]


def test_what_is_noted_replaces_what_was_known(store, told):
    run = a_run(store)
    entry = read_entry(run.folder)
    with opened(store, told) as index:
        changed = dataclasses.replace(
            entry, state="training", images_seen=24, updated=entry.updated + 1, bytes=7
        )
        index.note(changed)
        index.note(dataclasses.replace(entry, run_id="without-a-folder", seed=9))
        assert [each.run_id for each in index.entries()] == [run.run_id, "without-a-folder"]
        assert index.entries()[0] == changed
    assert entries_of(store, told)[0] == changed


def test_a_rebuilt_index_equals_the_noted_entries(store, told):
    runs = [a_run(store, size, points=points) for size in (4, 6, 8) for points in (0, 3, 9)]
    with opened(store, told) as index:
        for run in runs:
            index.note(read_entry(run.folder))
        noted = index.entries()
        assert index.rebuild() == 3
        assert index.entries() == noted
    (store / "index.sqlite").unlink()
    assert entries_of(store, told) == noted


def test_rebuilding_reads_every_folder_again_and_keeps_the_leases(store, told):
    run, gone = a_run(store), a_run(store, seed=1)
    with opened(store, told) as index, opened(store, told) as other:
        index.claim(run.run_id, "a study")
        shutil.rmtree(gone.folder)
        wrong = dataclasses.replace(read_entry(run.folder), state="trained", bytes=1)
        index.note(wrong)
        index.note(dataclasses.replace(wrong, run_id="never-made", state="new"))
        told_of = []
        assert index.rebuild(lambda done, total, note="": told_of.append((done, total))) == 1
        assert told_of == [(0, 1)]
        assert index.entries() == [read_entry(run.folder)]
        assert not other.claim(run.run_id, "another")


def test_a_note_that_is_made_while_folders_are_read_is_kept(store, told, monkeypatch):
    run = a_run(store)
    newer = dataclasses.replace(read_entry(run.folder), images_seen=40, state="training")
    with opened(store, told) as index, opened(store, told) as other:
        read = index_module.read_entries

        def slow(*arguments):
            found = read(*arguments)
            other.note(newer)
            return found

        monkeypatch.setattr(index_module, "read_entries", slow)
        assert index.rebuild() == 1
        assert index.entries() == [newer]


def test_opening_reads_new_folders_alone_and_forgets_removed_ones(store, told, monkeypatch):
    kept, gone = a_run(store), a_run(store, seed=1)
    with opened(store, told) as index:
        index.note(dataclasses.replace(read_entry(kept.folder), bytes=5))
        index.note(dataclasses.replace(read_entry(gone.folder), state="training"))
    shutil.rmtree(gone.folder)
    new = a_run(store, seed=2)
    found = entries_of(store, told)
    assert [(entry.run_id, entry.bytes == 5) for entry in found] == [(kept.run_id, True), (new.run_id, False)]


def test_a_damaged_index_is_set_aside_and_made_anew(store, told):
    run = a_run(store, points=2)
    before = entries_of(store, told)
    (store / "index.sqlite").write_bytes(b"nothing like a database" * 400)
    assert entries_of(store, told) == before == [read_entry(run.folder)]
    assert len(told) == 1
    assert "It was set aside as index.sqlite.damaged and is rebuilt from the folders" in told[0]
    assert (store / "index.sqlite.damaged").exists()


def test_damage_that_is_found_later_is_mended_and_leases_are_kept(store, told):
    run, other = a_run(store), a_run(store, seed=1)
    with opened(store, told) as mine, opened(store, told) as theirs:
        assert mine.claim(run.run_id, "mine")
        assert theirs.claim(other.run_id, "theirs")
        once = iter([DAMAGE])

        def found_damaged(connection):
            for error in once:
                raise error
            return "done"

        assert mine._do(found_damaged) == "done"
        assert len(mine.entries()) == 2
        assert len(told) == 1
        # It notices the new file, and puts its own lease there.
        assert not theirs.claim(run.run_id, "theirs")
        assert not mine.claim(other.run_id, "mine")
        assert (mine.beat(), theirs.beat()) == ([], [])


def test_a_lease_that_another_took_in_the_new_file_is_lost(store, told):
    with opened(store, told) as mine, opened(store, told) as theirs:
        mine.claim("r", "mine")
        theirs._database.refresh(DAMAGE)
        assert theirs.claim("r", "theirs")
        assert mine.beat() == ["r"]


def test_a_full_disk_is_one_line_and_the_index_goes_on_when_there_is_space_again(store, told):
    run = a_run(store)
    entry = read_entry(run.folder)
    with opened(store, told) as index:
        (pages,) = index._database._connection.execute("PRAGMA page_count").fetchone()
        index._database._connection.execute(f"PRAGMA max_page_count={pages}")
        many = [dataclasses.replace(entry, run_id=f"{number:0100d}") for number in range(1000)]
        with pytest.raises(DiffmemError, match="disk is full"):
            list(map(index.note, many))
        index._database._connection.execute("PRAGMA max_page_count=10000")
        index.note(dataclasses.replace(entry, bytes=3))
        assert entry.run_id in [each.run_id for each in index.entries()]


def test_an_index_of_a_newer_version_is_refused(store, told):
    Database(store / "index.sqlite", ("CREATE TABLE t (n)",), 99).close()
    for open_ in (RunIndex, read_index):
        with pytest.raises(UserError, match="newer version"):
            open_(store, warn=told)


def test_reading_alone_makes_no_index_and_tells_what_the_folders_hold(store, told):
    run = a_run(store, points=1)
    assert read_index(store, told) == ([read_entry(run.folder)], {})
    assert [path.name for path in store.iterdir()] == ["runs"]


def test_reading_alone_sees_the_index_and_the_folders_that_it_does_not_know(store, told):
    run, gone = a_run(store), a_run(store, seed=2)
    with opened(store, told) as index:
        noted = dataclasses.replace(read_entry(run.folder), bytes=5)
        index.note(noted)
        index.note(dataclasses.replace(read_entry(gone.folder), state="trained"))
        index.claim(run.run_id, "a study")
        new = a_run(store, seed=1)
        shutil.rmtree(gone.folder)
        entries, leases = read_index(store, told)
    assert entries == [noted, read_entry(new.folder)]
    assert {name: lease.study for name, lease in leases.items()} == {run.run_id: "a study"}
    assert told == []


def test_reading_alone_leaves_a_damaged_index_where_it_is(store, told):
    run = a_run(store)
    (store / "index.sqlite").write_bytes(b"x" * 5000)
    assert read_index(store, told) == ([read_entry(run.folder)], {})
    assert len(told) == 1
    assert "The folders were read instead" in told[0]
    assert (store / "index.sqlite").read_bytes() == b"x" * 5000


def test_a_store_that_may_not_be_written_can_be_read_and_writing_to_it_is_one_line(told):
    store = Path(tempfile.mkdtemp())  # others may not enter the folders of tests
    try:
        store.chmod(0o755)
        run = a_run(store, points=1)
        with opened(store, told):
            pass
        for path in [*store.rglob("*"), store]:
            path.chmod(0o555 if path.is_dir() else 0o444)

        def read():
            entries, leases = read_index(store, told)
            assert ([entry.run_id for entry in entries], leases) == ([run.run_id], {})
            assert told == []

        assert without_rights(read) == ""

        def claim():
            with opened(store, told) as index:
                index.claim(run.run_id, "a study")

        assert without_rights(claim).startswith(f"DiffmemError: Cannot use {store}")
    finally:
        for path in [store, *store.rglob("*")]:
            path.chmod(path.stat().st_mode | stat.S_IRWXU)
        shutil.rmtree(store)


def test_what_a_killed_process_noted_is_there(store, told):
    runs = [a_run(store, seed=seed, points=seed) for seed in range(4)]
    with child(note_all_and_die, store, [run.folder for run in runs]) as other:
        other.told()
        other.kill()
    assert entries_of(store, told) == [read_entry(run.folder) for run in runs]


def test_a_closed_index_says_so(store, told):
    index = opened(store, told)
    index.close()
    index.close()
    for use in (index.entries, index.holders, index.beat, lambda: index.claim("r", "")):
        with pytest.raises(DiffmemError, match="is closed"):
            use()


def test_words_of_any_kind_survive(store, told):
    entry = dataclasses.replace(
        read_entry(a_run(store).folder), model="'; DROP TABLE runs; -- ü 好", training=""
    )
    with opened(store, told) as index:
        index.note(entry)
        index.claim(entry.run_id, "«study»; DROP TABLE leases")
        assert index.entries() == [entry]
        assert index.holders()[entry.run_id].study == "«study»; DROP TABLE leases"
    assert MODEL.describe() != entry.model
