"""What a run's folder says, read by one class."""

import json

import pytest
from store_builders import MODEL, TRAINING, a_run

from diffmem.errors import UserError
from diffmem.runs.run_folder import CONFIG_FILE, RunFolder


def test_a_folder_says_what_its_run_is_and_how_far_it_is(tmp_path):
    run = a_run(tmp_path, size=4, seed=3, points=2)
    found = RunFolder(run.folder)
    assert (found.config.model, found.config.training, found.config.seed) == (MODEL, TRAINING, 3)
    assert (found.config.data.size, found.config.data.fingerprint) == (4, run.training_set.fingerprint)
    assert found.snapshots == run.points[:2]
    assert [record["images_seen"] for record in found.metrics] == run.points[:2]


def test_a_folder_that_has_only_begun_has_neither_snapshots_nor_metrics(tmp_path):
    found = RunFolder(a_run(tmp_path).folder)
    assert (found.snapshots, found.metrics) == ([], [])


def test_names_that_are_no_numbers_are_no_snapshots_and_metrics_end_where_a_crash_cut_them(tmp_path):
    run = a_run(tmp_path, points=1)
    (run.folder / "snapshots" / "best.safetensors").write_bytes(b"weights")
    with (run.folder / "metrics.jsonl").open("a") as lines:
        lines.write('{"images_seen": 9\n' + json.dumps({"images_seen": 99}) + "\n")
    found = RunFolder(run.folder)
    assert found.snapshots == run.points[:1]
    assert [record["images_seen"] for record in found.metrics] == run.points[:1]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("size: 4", "size: 0", "data.size"),
        ("seed: 0", "sead: 0", "the key 'seed' is missing"),
        ("dropout", "dropuot", "dropuot"),
        ("data:", "data: [", "does not describe a run"),
    ],
)
def test_a_damaged_configuration_is_one_line_with_its_file(tmp_path, old, new, text):
    path = a_run(tmp_path).folder / CONFIG_FILE
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=text) as raised:
        _ = RunFolder(path.parent).config
    assert str(raised.value).startswith(f"{path} does not describe a run")
    assert "\n" not in str(raised.value)
