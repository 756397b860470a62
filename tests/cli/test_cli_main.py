import json
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import numpy as np
import pytest
import torch
import yaml
from cli_builders import TINY_MODEL, TINY_RECIPE, caller, environment, in_subprocess
from PIL import Image
from safetensors.torch import save_file

import diffmem
from diffmem.__main__ import main
from diffmem.data import open_images
from diffmem.errors import DiffmemError
from diffmem.models.weights import read_tensors
from diffmem.runs.recipe import StudyRecipe
from diffmem.settings import load_recipe
from diffmem.studies import emm, quickstart
from diffmem.training import Trainer
from diffmem.training.loop import STATE_FILE


@pytest.fixture(autouse=True)
def fewer_replicates(monkeypatch):
    monkeypatch.setattr(emm, "_REPLICATES", 50)


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


def recipe_file(folder, source="digits", name="recipe.yaml"):
    path = folder / name
    path.write_text(TINY_RECIPE.replace("SOURCE", str(source)))
    return path


def table(folder):
    """The numbers of a report, without times."""
    (level,) = json.loads((folder / "report.json").read_text())["levels"]
    for record in level["runs"]:
        del record["training_seconds"], record["sampling_seconds"]
    return level["runs"], level["emm"]


def test_a_miniature_goes_from_data_to_a_measured_rate(call, tmp_path):
    assert call("data", "build", "digits", "d.npz", "--size", 40).code == 0
    assert (
        call("data", "build", "digits", "h.npz", "--size", 30, "--selection", "random", "--seed", 1).code == 0
    )

    trained = call("train", "d.npz", "--out", "runs", "--epochs", 4, "--batch-size", 8, *TINY_MODEL)
    assert trained.code == 0
    snapshot = tmp_path / trained.out.splitlines()[-1]
    assert snapshot.is_file()
    folder = snapshot.parents[1]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["channels"] == 8
    assert config["training"]["epochs"] == 4
    assert config["training"]["batch_size"] == 8
    assert config["data"]["fingerprint"] == open_images("d.npz").with_labels(None, None, "").fingerprint

    made = call("generate", folder, "s.npz", "--seeds", "0-9", "--set", "steps=3", "--set", "solver=euler")
    assert made.code == 0
    assert made.out == f"s.npz: 10 images of 8x8x1 from {snapshot}\n"
    assert open_images("s.npz").images.shape == (10, 1, 8, 8)
    assert not (tmp_path / "s.npz.shards").exists()

    measured = call(
        "measure", "s.npz", "--train", "d.npz", "--heldout", "h.npz", "--out", "m.json", "--gallery", "g.png"
    )
    assert measured.code == 0
    assert "R_mem" in measured.out
    numbers = json.loads((tmp_path / "m.json").read_text())
    assert numbers["fingerprints"]["train"] == open_images("d.npz").fingerprint
    assert numbers["fingerprints"]["samples"] == open_images("s.npz").fingerprint
    assert Image.open(tmp_path / "g.png").format == "PNG"


def test_the_image_of_a_seed_is_the_same_alone_and_among_others(call, tmp_path):
    call("data", "build", "digits", "d.npz", "--size", 20)
    call("train", "d.npz", "--epochs", 4, "--batch-size", 8, *TINY_MODEL)
    (run,) = (tmp_path / "runs").iterdir()
    call("generate", run, "many.npz", "--seeds", "0-9", "--set", "steps=3")
    call("generate", run, "one.zip", "--seeds", "7", "--set", "steps=3")
    np.testing.assert_array_equal(open_images("many.npz").images[7], open_images("one.zip").images[0])


def test_training_again_does_nothing_and_names_the_same_snapshot(call, tmp_path):
    call("data", "build", "digits", "d.npz", "--size", 20)
    arguments = ["train", "d.npz", "--epochs", 4, "--batch-size", 8, *TINY_MODEL]
    first = call(*arguments)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    assert call(*arguments) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")} == times


def test_a_recipe_and_settings_train_the_same_run(call, tmp_path):
    call("data", "build", "digits", "d.npz", "--size", 20)
    values = {"model": {}, "training": {"epochs": 4, "batch_size": 8}}
    for setting in TINY_MODEL:
        key, _, value = setting.removeprefix("--set=").rpartition("=")
        place = values
        for part in key.split(".")[:-1]:
            place = place.setdefault(part, {})
        place[key.split(".")[-1]] = yaml.safe_load(value)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(values))
    assert call("train", "d.npz", "--recipe", "train.yaml").code == 0
    assert call("train", "d.npz", "--epochs", 4, "--batch-size", 8, *TINY_MODEL).code == 0
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_conditional_run_generates_the_class_that_is_asked_for(call, tmp_path):
    call("data", "build", "digits", "d.npz", "--size", 20)
    assert call("train", "d.npz", "--conditional", "--epochs", 4, "--batch-size", 8, *TINY_MODEL).code == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert call("generate", run, "s.npz", "--seeds", "0-3", "--labels", 7, "--set", "steps=2").code == 0
    assert open_images("s.npz").labels.tolist() == [7] * 4
    assert "\nerror: Label 10 does not exist" in call("generate", run, "s.npz", "--labels", 10).err
    assert call("generate", run, "s.npz", "--labels", "seven").err.startswith(
        "error: --labels 'seven' must be"
    )


def test_the_settings_of_training_are_listed_with_their_defaults(call):
    listed = call("train", "--list-settings")
    assert listed.code == 0
    assert "model.channels" in listed.out
    assert "40000" in listed.out


@pytest.mark.usefixtures("undrawn")
def test_a_study_writes_its_report_and_the_report_can_be_drawn_again(call, tmp_path):
    recipe = recipe_file(tmp_path)
    done = call("study", recipe, "--out", "st", "--workers", 1, "--set", "title=Renamed")
    assert done.code == 0
    html, js = done.out.splitlines()[-2:]
    assert (html, js) == ("st/report.html", "st/report.json")
    assert "Renamed" in (tmp_path / html).read_text()
    before = table(tmp_path / "st")
    (tmp_path / "st" / "report.html").unlink()
    (tmp_path / "st" / "report.json").unlink()
    drawn = call("report", "st")
    assert drawn.code == 0
    assert drawn.out == done.out
    assert table(tmp_path / "st") == before


@pytest.mark.usefixtures("undrawn")
def test_a_report_of_an_unfinished_study_tells_what_is_missing(call, tmp_path):
    call("study", recipe_file(tmp_path), "--out", "st", "--workers", 1)
    next((tmp_path / "st").glob("runs/*/evaluations/*/??????????.npz")).unlink()
    drawn = call("report", "st")
    assert drawn.code == 0
    found = json.loads((tmp_path / "st" / "report.json").read_text())
    assert found["finished"] is False
    assert found["notes"] == ["unfinished; 1 of 2 runs are missing"]
    assert "EMM at 90%: unfinished" in drawn.out
    assert "had not reached 90% copies by epoch 20" in drawn.out


@pytest.mark.usefixtures("undrawn")
def test_the_quickstart_carries_out_its_recipe(call, tmp_path, monkeypatch):
    asked = []

    def tiny(fast):
        asked.append(fast)
        return load_recipe(StudyRecipe, recipe_file(tmp_path))

    monkeypatch.setattr(quickstart, "quickstart_recipe", tiny)
    assert call("quickstart", "--fast", "--workers", 1).code == 0
    assert asked == [True]
    assert (tmp_path / "quickstart" / "report.html").is_file()


def test_the_doctor_names_versions_and_the_device(call):
    told = call("doctor")
    assert told.code == 0
    assert diffmem.__version__ in told.out
    assert version("torch") in told.out  # torch itself adds its build, as in 2.13.0+cpu
    assert "cuda" in told.out


MISTAKES = {
    "no such verb": (["stduy"], "stduy"),
    "no such verb of data": (["data", "biuld"], "biuld"),
    "no such flag": (["generate", "run", "s.npz", "--seed", "3"], "--seed"),
    "an argument too many": (["report", "a", "b"], "b"),
    "a missing argument": (["measure", "s.npz"], "--train"),
    "a word for a number": (["train", "d.npz", "--epochs", "many"], "many"),
    "a missing image set": (["train", "missing.npz"], "missing.npz"),
    "no image set": (["train"], "Name the image set"),
    "a missing recipe": (["study", "missing.yaml", "--out", "st"], "missing.yaml"),
    "a missing recipe to train": (["train", "digits", "--recipe", "missing.yaml"], "missing.yaml"),
    "an unknown key": (["study", "wrong.yaml", "--out", "st"], "Did you mean 'channels'?"),
    "an unknown setting": (["train", "digits", "--set", "model.chanels=8"], "Did you mean 'channels'?"),
    "a setting without a value": (["train", "digits", "--set", "epochs"], "key=value"),
    "a setting that is not finite": (["train", "digits", "--set", "training.p_mean=.nan"], "training.p_mean"),
    "an unknown setting of the sampler": (["generate", "r", "s.npz", "--set", "stps=3"], "'steps'"),
    "seeds that are no numbers": (["generate", "run", "s.npz", "--seeds", "a-b"], "'a-b'"),
    "seeds that run backwards": (["generate", "run", "s.npz", "--seeds", "9-0"], "backwards"),
    "samples of a wrong suffix": (["generate", "run", "s.png"], "'s.png'"),
    "data of a wrong suffix": (["data", "build", "digits", "d.png"], "'d.png'"),
    "a wrong threshold": (["measure", "digits", "--train", "digits", "--threshold", "2"], "2"),
    "an unknown device": (["train", "digits", "--device", "tpu"], "'tpu'"),
    "sizes beyond the set": (["study", "large.yaml", "--out", "st"], "5000"),
    "a size of one": (["study", "recipe.yaml", "--out", "st", "--set", "sizes=[1]"], "size of 1"),
    "a snapshot that is none": (["generate", "text.safetensors", "s.npz"], "text.safetensors"),
    "a snapshot of another kind": (["generate", "other.safetensors", "s.npz"], "other.safetensors"),
    "a missing snapshot": (["generate", "missing.safetensors", "s.npz"], "missing.safetensors"),
    "a run without snapshots": (["generate", "unfinished", "s.npz"], "unfinished"),
    "a folder that is no study": (["report", "unfinished"], "recipe.yaml"),
    "labels where there are none": (["train", "plain.npz", "--conditional"], "no labels"),
    "sets of two shapes": (["measure", "plain.npz", "--train", "digits"], "8"),
    "an image set that is damaged": (["data", "info", "damaged.npz"], "damaged.npz"),
    "numbers of a wrong suffix": (["measure", "digits", "--train", "digits", "--out", "m.txt"], "m.txt"),
    "a gallery of a wrong suffix": (
        ["measure", "digits", "--train", "digits", "--gallery", "g.gif"],
        "g.gif",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_with_code_2_and_one_line_that_names_it(call, tmp_path, mistake):
    recipe_file(tmp_path)
    (tmp_path / "wrong.yaml").write_text(
        TINY_RECIPE.replace("channels", "chanels").replace("SOURCE", "digits")
    )
    (tmp_path / "large.yaml").write_text("data: {source: digits, selection: first}\nsizes: [10, 5000]\n")
    (tmp_path / "text.safetensors").write_text("not a snapshot")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("format: 1\n")
    np.savez(tmp_path / "plain.npz", images=np.arange(4 * 36, dtype=np.uint8).reshape(4, 6, 6))
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "plain.npz").read_bytes()[:100])
    before = sorted(path.name for path in tmp_path.iterdir())
    arguments, words = MISTAKES[mistake]
    told = call(*arguments)
    assert told.code == 2
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert words in told.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "digits"],
        ["generate", "run", "s.npz"],
        ["measure", "digits", "--train", "digits"],
        ["study", "recipe.yaml", "--out", "st"],
        ["quickstart"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_gpu_that_is_not_there_is_told(call, tmp_path, arguments):
    recipe_file(tmp_path)
    told = call(*arguments, "--device", "cuda")
    assert told.code == 2
    assert (
        told.err
        == "error: Device 'cuda' was requested, but torch finds no CUDA GPU here; use --device cpu.\n"
    )


def test_a_failure_of_the_machine_ends_with_code_1_and_one_line(call, monkeypatch):
    def fail(*given, **named):
        raise DiffmemError("Cannot write d.npz: No space left on device.")

    monkeypatch.setattr(sys.modules["diffmem.data.write"], "write_images", fail)
    told = call("data", "build", "digits", "d.npz")
    assert (told.code, told.err) == (1, "error: Cannot write d.npz: No space left on device.\n")


def test_a_bug_shows_its_traceback(call, monkeypatch):
    def fail(*given, **named):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(sys.modules["diffmem.data.write"], "write_images", fail)
    with pytest.raises(ZeroDivisionError):
        call("data", "build", "digits", "d.npz")


def test_a_training_that_diverges_ends_with_code_1_and_the_remedy(call, tmp_path):
    call("data", "build", "digits", "d.npz", "--size", 20)
    steep = ["--set=training.learning_rate=1e30", "--set=training.optimizer=sgd"]
    told = call("train", "d.npz", "--epochs", 40, "--batch-size", 8, *TINY_MODEL, *steep)
    assert told.code == 1
    assert "try a lower training.learning_rate" in told.err


@pytest.mark.slow  # as the mistakes above in this process, and the interrupt below in one of its own
def test_python_m_diffmem_tells_a_mistake_without_a_traceback(tmp_path):
    done = in_subprocess("study", "missing.yaml", "--out", "st", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: Cannot read missing.yaml: No such file or directory.\n"


SLOWLY = """
import runpy, sys, time
from diffmem.training import Trainer

def slowly(trainer, step=Trainer.step):
    time.sleep(0.1)
    return step(trainer)

Trainer.step = slowly
sys.argv[0] = "diffmem"
runpy.run_module("diffmem", run_name="__main__", alter_sys=True)
"""
"""`python -m diffmem`, whose trainings take seconds, so that one is still at work when it is interrupted."""


def test_ctrl_c_ends_with_code_130_and_the_same_command_goes_on(call, tmp_path, monkeypatch):
    call("data", "build", "digits", "d.npz", "--size", 20)
    arguments = ["train", "d.npz", "--epochs", 40, "--batch-size", 8, *TINY_MODEL]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *map(str, arguments)],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/snapshots/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command resumes from there" in told
    assert "Traceback" not in told
    (run,) = (tmp_path / "runs").iterdir()
    seen = int(read_tensors(run / STATE_FILE)[0]["seen"])
    assert seen >= 8
    steps, step = [], Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda trainer: (steps.append(1), step(trainer)))
    assert call(*arguments).code == 0
    assert seen + 8 * len(steps) == 40 * 20  # training went on and did not begin again
    assert len(list((run / "snapshots").iterdir())) == 2


def test_a_command_that_succeeds_returns_to_what_called_it(capsys):
    # Under torchrun, processes part only after it: one that exited inside the command would tear down the connection of others.
    assert main(["--version"]) is None
    assert main(["reproduce", "--list"]) is None
