import json
import re
import shutil

import pytest
from cli_builders import caller, trained_runs

from diffmem.runs.store.index import RunIndex


@pytest.fixture
def call(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    return caller(capsys)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of two runs of 30 images."""
    return trained_runs(tmp_path_factory.mktemp("made"), [["--epochs", 2, "--seed", seed] for seed in (0, 1)])


@pytest.fixture
def store(made, tmp_path):
    """The same without an index."""
    (tmp_path / "runs").symlink_to(made / "runs")
    return tmp_path


def ids(store):
    return sorted(path.name for path in (store / "runs").iterdir())


def test_runs_are_listed_from_the_folders_where_there_is_no_index(call, store):
    done = call("runs", store)
    assert (done.code, done.err) == (0, "")
    rows = {words[0]: words for line in done.out.splitlines() if (words := line.split())}
    assert {rows[name][2] for name in ids(store)} == {"0", "1"}
    for name in ids(store):
        assert rows[name][1] == "30"
        assert rows[name][3:7] == ["M1", "T1", "trained", "100%"]
        assert rows[name][-1] == "–"
    assert "M1: DDPM++ U-Net, EDM preconditioning" in done.out
    assert "T1: 2 epochs, batch 10" in done.out
    assert not (store / "index.sqlite").exists()


def test_json_has_every_field_and_who_holds_a_run(call, store):
    with RunIndex(store) as index:
        index.claim(ids(store)[0], "a study")
        done = call("runs", store, "--json")
        lease = index.holders()[ids(store)[0]]
    found = {run["run_id"]: run for run in json.loads(done.out)}
    assert [run["seed"] for run in found.values()] == [0, 1]
    first, second = (found[name] for name in ids(store))
    assert (first["held_by"]["study"], first["held_by"]["pid"]) == ("a study", lease.pid)
    assert first["held_by"]["alive"] is True
    assert second["held_by"] is None
    assert {run["images_total"] for run in found.values()} == {60}
    assert all(run["bytes"] > 1000 and run["state"] == "trained" for run in found.values())


def test_the_holder_is_named_and_one_that_is_gone_is_nobody(call, store):
    with RunIndex(store, seconds_to_expire=1000) as index:
        index.claim(ids(store)[0], "a study of digits")
        listed = " ".join(re.sub("[^A-Za-z0-9 ]", " ", call("runs", store).out).split())
        assert "a study of" in listed
        assert "nobody" not in listed
        index._do(lambda connection: connection.execute("UPDATE leases SET heartbeat = 1e9"))
        listed = " ".join(call("runs", store).out.split())
        assert "nobody" in listed


def test_every_line_fits_a_terminal_of_80_columns(call, store):
    with RunIndex(store) as index:
        index.claim(ids(store)[0], "a study with a name that is long enough for several lines of its column")
        out = call("runs", store).out
    assert max(map(len, out.splitlines())) <= 80
    assert "process" in out


def test_rebuild_makes_the_index_anew(call, store):
    done = call("runs", store, "--rebuild")
    assert done.code == 0
    assert f"The index of {store} was rebuilt: 2 runs." in done.out
    assert (store / "index.sqlite").exists()
    with RunIndex(store) as index:
        index._do(lambda connection: connection.execute("UPDATE runs SET bytes = 1"))
    assert {run["bytes"] for run in json.loads(call("runs", store, "--json").out)} == {1}
    assert min(run["bytes"] for run in json.loads(call("runs", store, "--rebuild", "--json").out)) > 1000


def test_a_run_that_is_still_trained_is_listed_as_its_folder_has_it(call, store):
    with RunIndex(store) as index:
        index._do(
            lambda connection: connection.execute("UPDATE runs SET state = 'training', images_seen = 8")
        )
    assert {run["state"] for run in json.loads(call("runs", store, "--json").out)} == {"trained"}


def test_a_run_whose_configuration_was_damaged_is_told(call, tmp_path, made):
    (tmp_path / "runs").mkdir()
    name = ids(made)[0]
    shutil.copytree(made / "runs" / name, tmp_path / "runs" / name)
    with RunIndex(tmp_path) as index:
        index._do(lambda connection: connection.execute("UPDATE runs SET state = 'training'"))
    (tmp_path / "runs" / name / "config.yaml").write_text("[")
    done = call("runs", tmp_path)
    assert done.code == 0
    assert name in done.out
    assert "config.yaml does not describe a run" in done.err


def test_a_damaged_index_is_told_and_the_folders_are_listed(call, store):
    (store / "index.sqlite").write_bytes(b"x" * 5000)
    done = call("runs", store)
    assert done.code == 0
    assert re.fullmatch(r"warning: .*index\.sqlite is damaged.* The folders were read instead\.\n", done.err)
    assert all(name in done.out for name in ids(store))
    done = call("runs", store, "--rebuild")
    assert "set aside as index.sqlite.damaged and is rebuilt from the folders" in done.err
    assert call("runs", store).err == ""


def test_a_store_without_runs_says_so(call, tmp_path):
    (tmp_path / "runs").mkdir()
    assert call("runs", tmp_path).out == f"{tmp_path} holds no runs yet.\n"
    assert call("runs", tmp_path, "--json").out == "[]\n"


def test_what_is_no_store_is_refused_with_the_remedy(call, store, tmp_path):
    done = call("runs", tmp_path / "nowhere")
    assert done.code == 2
    assert re.fullmatch(r"error: .*nowhere is no store: it has no folder runs/, .*\n", done.err)
    done = call("runs", store / "runs")
    assert done.code == 2
    assert "Give the folder that holds it." in done.err


def test_a_study_whose_runs_lie_in_a_store_of_others_lists_them(call, store, tmp_path):
    study = tmp_path / "study"
    study.mkdir()
    (study / "place.json").write_text(json.dumps({"store": str(store)}))
    assert {run["run_id"] for run in json.loads(call("runs", study, "--json").out)} == set(ids(store))
    (study / "place.json").write_text(json.dumps({"store": str(tmp_path / "gone")}))
    done = call("runs", study)
    assert (done.code, "gone of the study" in done.err) == (2, True)
