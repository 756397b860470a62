import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from cli_builders import TINY_MODEL, caller, environment, trained_runs

from diffmem.data import ImageSet, open_images, write_images
from diffmem.runs import run as run_module
from diffmem.runs.opening import open_run, snapshots_of
from diffmem.training import Trainer

SMALL = ["--samples", 20, "--set", "steps=2", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a training set, held-out images, and a run made by `diffmem train`."""
    settings = ["--set=training.evaluations.count=3", "--set=training.evaluations.first=0.2"]
    return trained_runs(tmp_path_factory.mktemp("trained"), [["--epochs", 6, *settings]])


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """A copy of it in the working directory, as from a version that noted no training set; returns the run's folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    run = next((tmp_path / "runs").iterdir())
    (run / "data.json").unlink()
    return run


def test_a_run_knows_the_images_that_diffmem_train_trained_it_on(call, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # not where it was trained
    copy = shutil.copytree(trained / "runs", tmp_path / "runs")
    assert call("measure", "--expdir", next(copy.iterdir()), *SMALL).code == 0


@pytest.fixture
def call(capsys):
    return caller(capsys)


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def forbid_sampling(monkeypatch):
    def fail(*given, **named):
        raise AssertionError("this was done already")

    monkeypatch.setattr(run_module, "generate_resumable", fail)
    monkeypatch.setattr(Trainer, "step", fail)


def test_all_snapshots_of_a_run_are_measured_and_written(call, here, tmp_path):
    told = call(
        "measure", "--expdir", here, "--train", "d.npz", "--heldout", "h.npz", "--frechet", "pixels",
        "--out", "m.json", *SMALL,
    )  # fmt: skip
    assert told.code == 0, told.err
    numbers = json.loads((tmp_path / "m.json").read_text())
    assert [each["images_seen"] for each in numbers["evaluations"]] == snapshots_of(here)
    assert len(numbers["evaluations"]) == 3
    assert numbers["evaluations"][0]["memorized"]["total"] == 20
    assert numbers["null"]["total"] == 20
    assert numbers["protocol"] == "pixel-l2/uint8/ratio<0.3333/exact-dups-collapsed/v1"
    assert "2 steps" in numbers["sampling"]
    run = open_run(here, "d.npz")
    assert numbers["fingerprints"] == {
        "train": run.training_set.fingerprint,
        "heldout": open_images("h.npz").fingerprint,
    }
    lines = told.out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["1.33", "3", "6"]
    assert lines[4].startswith("maximum ")
    assert "; last " in lines[4]
    assert "this is no FID" in told.out
    assert not list(here.rglob("*.shards"))


def test_what_is_measured_is_not_measured_again_and_the_training_set_is_remembered(call, here, monkeypatch):
    # trap: re-running redoes every snapshot
    first = call("measure", "--expdir", here, "--train", "d.npz", *SMALL)
    forbid_sampling(monkeypatch)
    before = files(here)
    again = call("measure", "--expdir", here, *SMALL)
    assert (again.code, again.out) == (0, first.out)
    assert files(here) == before
    assert call("measure", "--expdir", here, "--threshold", 0.9, *SMALL).code == 0


def test_an_interrupted_measurement_goes_on_with_the_snapshots_that_are_missing(call, here, monkeypatch):
    made, generate = [], run_module.generate_resumable

    def counted(*given, **named):
        made.append(given)
        if len(made) == 3:
            raise KeyboardInterrupt
        return generate(*given, **named)

    monkeypatch.setattr(run_module, "generate_resumable", counted)
    assert call("measure", "--expdir", here, "--train", "d.npz", *SMALL).code == 130
    assert call("measure", "--expdir", here, "--train", "d.npz", *SMALL).code == 0
    assert len(made) == 4


def test_no_snapshot_is_left_out_by_its_place(call, here):
    # trap: the original drops the first file of the folder, a real snapshot where the folder was pruned
    seen = snapshots_of(here)
    (here / "snapshots" / f"{seen[0]:010d}.safetensors").unlink()
    (here / "snapshots" / "best.safetensors").write_bytes(b"something else")
    told = call("measure", "--expdir", here, "--train", "d.npz", "--out", "m.json", *SMALL)
    assert told.code == 0
    assert "best.safetensors is left out" in told.err
    numbers = json.loads((here.parents[1] / "m.json").read_text())
    assert [each["images_seen"] for each in numbers["evaluations"]] == seen[1:]


def test_a_run_that_is_not_finished_is_measured_as_far_as_it_is(call, here):
    last = snapshots_of(here)[-1]
    (here / "snapshots" / f"{last:010d}.safetensors").unlink()
    assert call("measure", "--expdir", here, "--train", "d.npz", *SMALL).code == 0
    assert len(list(here.glob("evaluations/*/*.images.npz"))) == 2


def test_a_conditional_run_is_measured_with_its_labels(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = open_images("digits").take(np.arange(20), "some")
    write_images(ImageSet(images.images, np.arange(20) % 3, images.names), tmp_path / "l.npz")
    assert call("train", "l.npz", "--conditional", "--epochs", 4, "--batch-size", 10, *TINY_MODEL).code == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert call("measure", "--expdir", run, "--train", "l.npz", *SMALL).code == 0
    paths = [path for path in run.glob("evaluations/*/*.npz") if ".images" not in path.name]
    with np.load(paths[0]) as held:
        assert set(held["labels"]) == {0, 1, 2}


def test_the_training_set_of_a_study_s_run_is_found_in_its_store(call, here, tmp_path):
    run = open_run(here, "d.npz")
    write_images(run.training_set, tmp_path / "data" / f"train-{run.training_set.fingerprint[:16]}.npz")
    assert call("measure", "--expdir", here, *SMALL).code == 0


def test_a_moved_run_is_measured_where_it_lies(call, here, tmp_path):
    moved = here.rename(tmp_path / "moved")
    assert call("measure", "--expdir", "moved", "--train", "d.npz", *SMALL).code == 0
    assert list(moved.glob("evaluations/*/*.images.npz"))
    assert not here.exists()


MISTAKES = {
    "another training set": (["--train", "h.npz"], "h.npz is not the training set of this run"),
    "no training set": ([], "name them with --train"),
    "samples beside the folder": (["d.npz", "--train", "d.npz"], "either"),
    "a gallery": (["--train", "d.npz", "--gallery", "g.png"], "--gallery"),
    "no images": (["--train", "d.npz", "--samples", "0"], "samples = 0"),
    "unknown features": (["--train", "d.npz", "--frechet", "pixel"], "Did you mean 'pixels'?"),
    "an unknown setting": (["--train", "d.npz", "--set", "stps=2"], "'steps'"),
    "an impossible threshold": (["--train", "d.npz", "--threshold", "2"], "threshold = 2.0"),
    "held-out images of another shape": (["--train", "d.npz", "--heldout", "s.npz"], "one shape"),
    "numbers of a wrong suffix": (["--train", "d.npz", "--out", "m.txt"], "m.txt"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_and_nothing_is_written(call, here, tmp_path, mistake):
    np.savez(tmp_path / "s.npz", images=np.zeros((4, 1, 4, 4), np.uint8))
    before = files(tmp_path)
    words, told_text = MISTAKES[mistake]
    told = call("measure", *words, "--expdir", here)
    assert told.code == 2
    assert told.err.count("\n") == 1
    assert told_text in told.err
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: shutil.rmtree(run), "There is no folder"),
        (lambda run: (run / "config.yaml").unlink(), "holds no config.yaml"),
        (lambda run: (run / "config.yaml").write_text("format: 1\n"), "does not describe a run"),
        (lambda run: (run / "config.yaml").write_text("- ["), "does not describe a run"),
        (lambda run: shutil.rmtree(run / "snapshots"), "holds no snapshots"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(call, here, damage, words):
    damage(here)
    told = call("measure", "--expdir", here, "--train", "d.npz", *SMALL)
    assert told.code == 2
    assert words in told.err


@pytest.mark.parametrize("content", ["", "[]", '{"train": "missing.npz"}', '{"train": 3}'])
def test_a_damaged_note_of_the_training_set_only_costs_the_option(call, here, content):
    (here / "data.json").write_text(content)
    assert "name them with --train" in call("measure", "--expdir", here, *SMALL).err
    assert call("measure", "--expdir", here, "--train", "d.npz", *SMALL).code == 0


@pytest.mark.parametrize("option", [["--samples", "3"], ["--set", "steps=2"], ["--frechet", "pixels"]])
def test_options_of_a_run_are_refused_for_samples(call, here, option):
    told = call("measure", "h.npz", "--train", "d.npz", *option)
    assert told.code == 2
    assert f"{option[0]} is for a run's folder" in told.err


def test_samples_need_a_training_set(call, here):
    assert "--train" in call("measure", "h.npz").err
    assert "either" in call("measure").err


def test_the_config_of_a_run_is_left_as_it_is(call, here):
    before = yaml.safe_load((here / "config.yaml").read_text())
    call("measure", "--expdir", here, "--train", "d.npz", *SMALL)
    assert yaml.safe_load((here / "config.yaml").read_text()) == before


@pytest.mark.slow
def test_two_processes_find_what_one_finds(call, here, tmp_path):
    # Fewer batches than processes in the last round: 300 images are two batches of 256.
    words = ["measure", "--expdir", "runs/" + here.name, "--train", "d.npz", "--heldout", "h.npz", "--samples", "300",
             "--set", "steps=1", "--frechet", "pixels", "--device", "cpu"]  # fmt: skip
    start = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "diffmem",
    ]
    done = subprocess.run(
        [*start, *words, "--out", "two.json"], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(here / "evaluations")
    assert call(*words, "--out", "one.json").code == 0
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert {**one, "sampling_seconds": 0} == {**two, "sampling_seconds": 0}
    assert done.stdout.count("maximum") == 1
