import json
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
from store_builders import MODEL, TRAINING, a_run

from diffmem.errors import DiffmemError, UserError
from diffmem.models.config import ModelConfig
from diffmem.runs.store import folders
from diffmem.runs.store.folders import read_entries, read_entry, run_names
from diffmem.training.loop import snapshot_path


def test_an_entry_says_what_the_folder_holds(tmp_path):
    run = a_run(tmp_path, size=4, seed=3, points=3)
    entry = read_entry(run.folder)
    assert (entry.run_id, entry.size, entry.seed) == (run.run_id, 4, 3)
    assert entry.fingerprint == run.training_set.fingerprint
    assert (entry.model, entry.training) == (MODEL.describe(), TRAINING.describe())
    assert (entry.state, entry.images_seen, entry.images_total) == ("training", run.points[2], run.points[-1])
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert entry.bytes == sum(path.stat().st_size for path in files)
    assert entry.updated == max(path.stat().st_mtime for path in files)


def test_a_run_is_new_then_trains_then_is_trained(tmp_path):
    total = len(a_run(tmp_path).points)
    states = [read_entry(a_run(tmp_path, seed=n, points=n).folder).state for n in (0, 1, total - 1, total)]
    assert states == ["new", "training", "training", "trained"]


def test_between_snapshots_the_metrics_tell_how_far_training_is(tmp_path):
    run = a_run(tmp_path, points=1)
    with (run.folder / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"images_seen": run.points[2] + 8}) + '\n{"images_seen": 99')
    assert read_entry(run.folder).images_seen == run.points[2] + 8


def test_a_run_whose_last_snapshot_was_removed_is_not_trained(tmp_path):
    run = a_run(tmp_path, points=99)
    snapshot_path(run.folder, run.points[-1]).unlink()
    assert read_entry(run.folder).state == "training"


def test_a_run_that_was_extended_trains_again(tmp_path):
    run = a_run(tmp_path, points=99)
    longer = run.config | {"training": run.config["training"] | {"epochs": 40.0}}
    (run.folder / "config.yaml").write_text(json.dumps(longer))  # JSON is YAML
    entry = read_entry(run.folder)
    assert (entry.state, entry.images_seen, entry.images_total) == ("training", 80, 160)


def test_the_optimum_is_not_trained_so_it_is_done_from_the_start(tmp_path):
    entry = read_entry(a_run(tmp_path, model=ModelConfig(architecture="optimum")).folder)
    assert (entry.state, entry.images_seen, entry.images_total) == ("trained", 0, 0)


def test_notes_about_the_work_do_not_count_as_changes_of_the_run(tmp_path):
    run = a_run(tmp_path, points=1)
    before = read_entry(run.folder).updated
    for name in (".lock", "status.json", "incidents.json"):
        (run.folder / name).write_text("x")
        os.utime(run.folder / name, (before + 100, before + 100))
    assert read_entry(run.folder).updated == before


def test_links_are_not_followed_when_sizes_are_added_up(tmp_path):
    run = a_run(tmp_path)
    before = read_entry(run.folder).bytes
    (tmp_path / "large").write_bytes(bytes(10**6))
    (run.folder / "link").symlink_to(tmp_path)
    assert read_entry(run.folder).bytes - before < 1000


def test_a_file_that_is_replaced_meanwhile_hides_no_other_file(tmp_path, monkeypatch):
    run = a_run(tmp_path, points=3)
    before, scandir = read_entry(run.folder), os.scandir

    @contextmanager
    def with_one_that_goes(folder):
        passing = Path(folder) / ".status.json.tmp"
        passing.touch()
        with scandir(folder) as found:
            listed = sorted(found, key=lambda each: each.name)
        passing.unlink()
        yield listed

    monkeypatch.setattr(folders.os, "scandir", with_one_that_goes)
    assert read_entry(run.folder) == before


@pytest.mark.parametrize("text", ["", "[", "seed: 1", "a\0b", "size: many", "size: .inf", "size: 0"])
def test_a_damaged_configuration_is_told_and_left_out(tmp_path, text):
    good, bad = a_run(tmp_path), a_run(tmp_path, seed=1)
    path = bad.folder / "config.yaml"
    path.write_text(path.read_text().replace("size: 4", text) if text.startswith("size") else text)
    with pytest.raises(UserError, match=r"config\.yaml does not describe a run"):
        read_entry(bad.folder)
    told = []
    assert [entry.run_id for entry in read_entries(tmp_path, run_names(tmp_path), told.append)] == [
        good.run_id
    ]
    assert len(told) == 1
    assert str(bad.folder) in told[0]


def test_a_configuration_of_unknown_settings_is_told_and_left_out(tmp_path):
    run = a_run(tmp_path)
    path = run.folder / "config.yaml"
    path.write_text(path.read_text().replace("dropout", "dropuot"))
    told = []
    assert read_entries(tmp_path, [run.run_id], told.append) == []
    assert "dropuot" in told[0]


def test_a_folder_that_is_no_run_yet_is_passed_over_but_one_that_lost_its_configuration_is_told(tmp_path):
    (tmp_path / "runs" / "begun").mkdir(parents=True)
    (tmp_path / "runs" / "begun" / ".lock").write_text("")
    lost = a_run(tmp_path, points=1)
    (lost.folder / "config.yaml").unlink()
    told = []
    assert read_entries(tmp_path, run_names(tmp_path), told.append) == []
    assert len(told) == 1
    assert f"{lost.folder} is not the folder of a run" in told[0]


def test_names_are_those_of_folders_alone(tmp_path):
    assert run_names(tmp_path) == []
    for name in ("b", "a", ".hidden"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "file").write_text("")
    assert run_names(tmp_path) == ["a", "b"]


def test_a_folder_of_runs_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    def fail(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folders.os, "scandir", fail)
    with pytest.raises(DiffmemError, match=r"Cannot read .*runs: Permission denied"):
        run_names(tmp_path)


def test_progress_counts_the_folders(tmp_path):
    names = [a_run(tmp_path, seed=seed).run_id for seed in range(3)]
    told = []
    read_entries(tmp_path, names, print, lambda done, total, note="": told.append((done, total, note)))
    assert told == [(0, 3, names[0]), (1, 3, names[1]), (2, 3, names[2])]
