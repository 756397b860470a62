import json
import shutil

import numpy as np
import pytest
from cli_builders import caller, trained_runs

from diffmem.optimum.gap_records import GapResult
from diffmem.runs import gap_run
from diffmem.threads import one_thread

pytestmark = pytest.mark.usefixtures("undrawn")

SMALL = ["--samples", 10, "--set", "steps=3", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a training set, held-out images, and two runs made by `diffmem train`."""
    runs = [["--epochs", 2, "--seed", seed] for seed in (0, 1)]
    return trained_runs(tmp_path_factory.mktemp("trained"), runs)


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """A copy of it in the working directory; returns the folders of the runs."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return sorted((tmp_path / "runs").iterdir())


@pytest.fixture
def call(capsys):
    return caller(capsys)


def numbers(folder):
    return GapResult.model_validate(json.loads((folder / "gap.json").read_text()))


def test_runs_are_compared_printed_drawn_and_written(call, here, tmp_path):
    done = call("gap", *here, "--heldout", "h.npz", "--out", "there", *SMALL)
    assert (done.code, done.err) == (0, "")
    found = numbers(tmp_path / "there")
    assert [run.run_id for run in found.runs] == [run.name for run in here]
    assert [curve.kind for curve in found.runs[0].curves] == ["training", "heldout", "trajectory"]
    assert found.runs[0].images == 30
    assert found.runs[0].rmem is None
    assert "3 steps" in found.sampling
    for run in here:
        assert run.name[:8] in done.out
    assert "R_mem of the last snapshot is not known for 2 of 2 runs" in done.out
    pictures = sorted(path.name for path in (tmp_path / "there").glob("*.png"))
    assert pictures == ["gap_losses.png", "gap_position.png", "gap_side_by_side.png"]


def test_a_measured_run_shows_its_rate(call, here, tmp_path):
    assert (
        call("measure", "--expdir", here[0], "--samples", 20, "--set", "steps=2", "--device", "cpu").code == 0
    )
    done = call("gap", here[0], *SMALL)
    assert numbers(tmp_path / "gap").runs[0].rmem.total == 20
    assert "are not known" not in done.out
    assert "1 of 1 runs have no held-out images" in done.out


def test_runs_that_are_measured_elsewhere_give_the_same_record(call, here, tmp_path):
    with one_thread():
        assert call("gap", *here, "--heldout", "h.npz", "--out", "one", *SMALL).code == 0
    done = call("gap", *here, "--heldout", "h.npz", "--out", "two", "--executor", "inline", *SMALL)
    assert (done.code, "gap.json" in done.out) == (0, True)
    assert (tmp_path / "one" / "gap.json").read_text() == (tmp_path / "two" / "gap.json").read_text()
    assert not (tmp_path / "two" / "pieces").exists()
    refused = call("gap", "--model", "m.pkl", "--train", "t.npz", "--executor", "inline")
    assert (refused.code, "several runs" in refused.err) == (2, True)


def test_a_stopped_command_goes_on_with_the_runs_that_are_missing(call, here, tmp_path, monkeypatch):
    done, original = [], gap_run.gap_errors

    def counted(*given, **named):
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt
        return original(*given, **named)

    monkeypatch.setattr(gap_run, "gap_errors", counted)
    assert call("gap", *here, *SMALL).code == 130
    assert call("gap", *here, *SMALL).code == 0
    assert len(done) == 5
    assert len(numbers(tmp_path / "gap").runs) == 2


def test_the_training_set_is_named_where_it_is_not_known_and_remembered(call, here):
    (here[0] / "data.json").unlink()
    assert "name them with --train" in call("gap", here[0], *SMALL).err
    assert call("gap", here[0], "--train", "d.npz", *SMALL).code == 0
    assert call("gap", here[0], *SMALL).code == 0


def test_nothing_is_written_into_the_run(call, here):
    before = {path: path.stat().st_mtime_ns for path in here[0].rglob("*")}
    assert call("gap", here[0], "--heldout", "h.npz", *SMALL).code == 0
    assert {path: path.stat().st_mtime_ns for path in here[0].rglob("*")} == before


MISTAKES = {
    "no run": ([], "at least one folder"),
    "no such folder": (["missing"], "There is no folder missing"),
    "no run's folder": (["runs"], "holds no config.yaml"),
    "another training set": (["RUN", "--train", "h.npz"], "h.npz is not the training set of this run"),
    "one training set for two runs": (
        ["RUN", "RUN", "--train", "d.npz"],
        "--train names the images of one run",
    ),
    "held-out images of another shape": (["RUN", "--heldout", "s.npz"], "have shape (1, 4, 4)"),
    "too few samples": (["RUN", "--samples", "1"], "--samples 1 is too few"),
    "noise levels that are none": (["RUN", "--sigmas", "1,-2"], "noise levels '1,-2'"),
    "an unknown setting": (["RUN", "--set", "stps=2"], "'steps'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_and_nothing_is_written(call, here, tmp_path, mistake):
    np.savez(tmp_path / "s.npz", images=np.zeros((4, 1, 4, 4), np.uint8))
    words, message = MISTAKES[mistake]
    done = call("gap", *[here[0] if word == "RUN" else word for word in words])
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "gap").exists()


def test_an_unfinished_run_has_no_snapshot(call, here):
    shutil.rmtree(here[0] / "snapshots")
    assert "holds no snapshots" in call("gap", here[0], *SMALL).err


def test_a_model_made_elsewhere_has_the_gap_of_the_run_that_it_is(call, here, tmp_path):
    assert call("gap", here[0], "--heldout", "h.npz", "--out", "run", *SMALL).code == 0
    snapshot = sorted((here[0] / "snapshots").iterdir())[-1]
    done = call(
        "gap", "--model", snapshot, "--train", "d.npz", "--heldout", "h.npz", "--out", "model", *SMALL
    )
    assert (done.code, done.err) == (0, "")
    (one,), (other,) = numbers(tmp_path / "run").runs, numbers(tmp_path / "model").runs
    assert other.curves == one.curves
    assert (other.epoch, other.images_seen, other.folder) == (None, None, str(snapshot))
    assert "note: diffmem snapshot: " in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "and not both"),
        (["runs/a", "--model", "b", "--train", "d.npz"], "and not both"),
        (["--model", "b"], "with --train"),
        (["runs/a", "--weights", "raw"], "--weights is for a model that is opened"),
    ],
)
def test_a_model_needs_its_images_and_comes_alone(call, here, words, message):
    done = call("gap", *words)
    assert (done.code, message in done.err) == (2, True)
