"""What version 0.1.0 left on disk is gone on with, or refused with the way out: see fixtures/v0_1_0/README.md."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_builders import caller

from diffmem.auditing import AuditResult
from diffmem.data import CanarySet, open_images
from diffmem.errors import UserError
from diffmem.memorization import Neighbours, RatioRule
from diffmem.models import build_denoiser, load_denoiser
from diffmem.models.weights import read_tensors
from diffmem.optimum.gap_records import GapResult
from diffmem.paper.records import ExperimentResult
from diffmem.studies.records import StudyRecord
from diffmem.training import Trainer, TrainingConfig

# Nothing here depends on pictures, nor on how many copies an audit plants.
pytestmark = pytest.mark.usefixtures("undrawn", "few_controls")

STORES = Path(__file__).parent / "fixtures" / "v0_1_0"
FINISHED, STOPPED = "runs/89e0a5bf51831314", "runs/b4aabf8e8e3cfdbe"
# As make.sh in the same folder.
NETWORK = [
    *("--set=model.preconditioning=edm", "--set=model.channels=4", "--set=model.multipliers=[1]", "--set=model.blocks=1"),
    *("--set=model.attention=[]", "--set=model.dropout=0.0", "--set=training.learning_rate=8.0e-3", "--set=training.warmup=20"),
    *("--set=training.ema.half_life=50", "--set=training.evaluations.count=2", "--set=training.evaluations.first=0.5"),
    "--batch-size=8",
]  # fmt: skip
MEASURED = ["--train", "train.npz", "--heldout", "heldout.npz", "--samples", "40", "--set=steps=12"]
REPRODUCTION = [
    *("reproduce", "fig5_labels", "--scale", "smoke", "--set=model.channels=4", "--set=data.resolution=4"),
    *("--set=model.multipliers=[1]", "--set=training.epochs=100", "--out", "reproduction", "--workers", "1"),
]  # fmt: skip


@pytest.fixture
def call(capsys):
    return caller(capsys)


@pytest.fixture
def bring(tmp_path, monkeypatch):
    """Copy stores into an empty folder, which is not the one that they were written in, and work there."""
    monkeypatch.chdir(tmp_path)

    def copies(*names):
        for name in names:
            source = STORES / name
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy2(source, target)

    return copies


def work_in(folder):
    """Everything that training and generating have written below a folder, with times: unequal if any of it was done again."""
    done = {}
    for path in sorted(Path(folder).rglob("*")):
        inside = {"snapshots", "evaluations"} & set(path.parts)
        if path.is_file() and (
            inside or path.name in ("metrics.jsonl", "training-state.safetensors", "time.json")
        ):
            done[str(path)] = (path.stat().st_mtime_ns, path.read_bytes())
    assert done
    return done


def record(path):
    return json.loads(Path(path).read_text())


def holds(new, old):
    """Whether a record has all that an earlier one had; it may have more."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(
            key in new and holds(new[key], value) for key, value in old.items()
        )
    if isinstance(old, list):
        return isinstance(new, list) and len(new) == len(old) and all(map(holds, new, old))
    return new == old


def rates(run):
    """The counts of a run's record."""
    points = [
        (one["images_seen"], one["memorized"]["count"], one["memorized"]["total"], one["distinct_replicated"])
        for one in run["evaluations"]
    ]
    return run["run_id"], run["size"], run["seed"], points, run["null"]["count"], run["null"]["total"]


def estimate(emm):
    """An estimate of EMM, which equals another up to the last digits."""
    return emm["status"], *(pytest.approx(emm[key], rel=1e-9) for key in ("value", "low", "high"))


def test_a_finished_run_is_not_trained_again(bring, call):
    bring("runs", "train.npz")
    before = work_in(FINISHED)
    told = call("train", "train.npz", *NETWORK, "--epochs", 400)
    assert told.code == 0, told.err
    assert f"{FINISHED}/snapshots/0000008000.safetensors" in told.out
    assert work_in(FINISHED) == before
    assert {path.name for path in Path("runs").iterdir()} == {Path(FINISHED).name, Path(STOPPED).name}


def test_a_finished_run_is_measured_from_what_it_keeps(bring, call):
    bring("runs", "train.npz", "heldout.npz")
    before = work_in(FINISHED)
    told = call("measure", "--expdir", FINISHED, *MEASURED, "--out", "again.json")
    assert told.code == 0, told.err
    assert rates(record("again.json")) == rates(record(STORES / "measured.json"))
    assert work_in(FINISHED) == before


def test_a_run_whose_images_have_moved_asks_for_them(bring, call):
    bring("runs")
    told = call("measure", "--expdir", FINISHED, "--samples", 40)
    assert told.code == 2
    assert "name them with --train" in told.err


def test_a_stopped_run_goes_on_where_it_stopped(bring, call):
    bring("runs", "train.npz")
    before, lines = work_in(STOPPED), Path(STOPPED, "metrics.jsonl").read_text()
    told = call("train", "train.npz", *NETWORK, "--epochs", 400, "--seed", 1)
    assert told.code == 0, told.err
    last = f"{STOPPED}/snapshots/0000008000.safetensors"
    assert last in told.out
    after = work_in(STOPPED)
    first = f"{STOPPED}/snapshots/0000004000.safetensors"
    assert last not in before
    assert after[first] == before[first]
    assert Path(STOPPED, "metrics.jsonl").read_text().startswith(lines)
    assert (
        record(f"{STOPPED}/time.json")["training_seconds"]
        > record(STORES / STOPPED / "time.json")["training_seconds"]
    )


def test_the_weights_to_go_on_from_are_given_to_the_layers_that_they_are_of():
    """They are one vector: layers in another order would take them as well, and be another network."""
    state, words = read_tensors(STORES / FINISHED / "training-state.safetensors")
    assert words["run"] == Path(FINISHED).name
    snapshot, model, _ = load_denoiser(
        STORES / FINISHED / "snapshots" / f"{int(state['seen']):010d}.safetensors"
    )
    images = open_images(STORES / "train.npz").images
    trainer = Trainer(build_denoiser(model, snapshot.image_shape), images, None, TrainingConfig(), 0)
    trainer.load_state(state)
    for name, averaged in snapshot.state_dict().items():
        torch.testing.assert_close(trainer.ema.state_dict()[name], averaged, rtol=0, atol=0)


def test_runs_are_listed_with_their_states(bring, call):
    bring("runs", "search")
    told = call("runs", ".")
    assert told.code == 0, told.err
    shown = [line.split() for line in told.out.splitlines()]
    states = {words[0]: words[5] for words in shown if len(words) > 5 and len(words[0]) == 16}
    assert states == {Path(FINISHED).name: "trained", Path(STOPPED).name: "training"}
    told = call("runs", "search")
    assert told.code == 0, told.err
    for run in Path("search/runs").iterdir():
        assert run.name in told.out


def test_a_grid_is_finished_and_reports_the_same(bring, call):
    bring("grid")
    before, old = work_in("grid"), record("grid/report.json")
    Path("grid/report.json").unlink()
    told = call("study", "grid/recipe.yaml", "--out", "grid", "--workers", 1)
    assert told.code == 0, told.err
    new = record("grid/report.json")
    (level,) = new["levels"]
    assert [rates(run) for run in level["runs"]] == [rates(run) for run in old["runs"]]
    assert estimate(old["emm"]) == estimate(level["emm"])
    assert work_in("grid") == before


def test_a_search_is_finished_and_finds_the_same(bring, call):
    bring("search", "search.yaml")
    before, old = work_in("search"), record("search/report.json")
    Path("search/report.json").unlink()
    told = call("study", "search.yaml", "--out", "search")
    assert told.code == 0, told.err
    new = record("search/report.json")
    assert new["finished"]
    for ours, theirs in zip(new["levels"], old["levels"], strict=True):
        assert estimate(theirs["emm"]) == estimate(ours["emm"])
        for key in ("run_id", "verdict", "stopped", "images_trained"):
            assert [run[key] for run in ours["runs"]] == [run[key] for run in theirs["runs"]]
        sampled = [sum(one["memorized"]["total"] for one in run["evaluations"]) for run in ours["runs"]]
        assert sampled == [run["images_sampled"] for run in theirs["runs"]]
    assert not list(Path("search").glob("index.sqlite.damaged*"))
    told = call("study", "status", "search")  # from what the folder alone says
    assert told.code == 0, told.err
    assert work_in("search") == before


def test_a_reproduction_is_finished_and_reports_the_same(bring, call):
    bring("reproduction")
    before, old = work_in("reproduction"), record("reproduction/result.json")
    Path("reproduction/result.json").unlink()
    told = call(*REPRODUCTION)
    assert told.code == 0, told.err
    new = record("reproduction/result.json")
    for ours, theirs in zip(new["levels"], old["levels"], strict=True):
        assert [rates(run) for run in ours["runs"]] == [rates(run) for run in theirs["study"]["runs"]]
    assert work_in("reproduction") == before


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (StudyRecord, "grid/report.json"),
        (StudyRecord, "search/report.json"),
        (ExperimentResult, "reproduction/result.json"),
    ],
)
def test_the_record_of_a_study_is_refused_with_the_way_out(kind, path):
    with pytest.raises(UserError) as caught:
        kind.model_validate_json((STORES / path).read_text())
    told = str(caught.value)
    assert "0.1.0" in told
    assert "writes it again from the runs" in told
    assert "\n" not in told


def test_the_record_of_a_gap_is_read_back_as_it_was():
    text = (STORES / "gap/gap.json").read_text()
    assert holds(GapResult.model_validate_json(text).model_dump(mode="json"), json.loads(text))


@pytest.mark.parametrize("name", ["ddpmpp-vp", "ncsnpp-ve", "adm-vp"])
def test_a_snapshot_generates_the_same_images(bring, call, name):
    bring("networks")
    told = call("generate", f"networks/{name}.safetensors", "again.npz", "--seeds", "0-3", "--set=steps=6")
    assert told.code == 0, told.err
    ours, theirs = open_images("again.npz"), open_images(f"networks/{name}.npz")
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_allclose(ours.images.astype(int), theirs.images.astype(int), atol=1)


def test_samples_of_a_run_are_generated_and_measured_as_before_with_the_index_that_is_there(bring, call):
    bring("runs", "train.npz", "heldout.npz", "samples.npz", "train.index")
    index = Path("train.index").stat().st_mtime_ns
    told = call("generate", FINISHED, "again.npz", "--seeds", "0-99", "--set=steps=12")
    assert told.code == 0, told.err
    ours, theirs = open_images("again.npz").images, open_images("samples.npz").images
    np.testing.assert_allclose(ours.astype(int), theirs.astype(int), atol=1)

    sets = ["--train", "train.npz", "--heldout", "heldout.npz", "--index", "train.index"]
    told = call("measure", "samples.npz", *sets, "--out", "again.json")
    assert told.code == 0, told.err
    new, old = record("again.json"), record(STORES / "measured-samples.json")
    for key in ("memorized", "null", "distinct_replicated", "duplicates", "fingerprints"):
        assert new[key] == old[key]
    assert new["mean_nearest_rms"] == pytest.approx(old["mean_nearest_rms"])
    assert Path("train.index").stat().st_mtime_ns == index


def test_an_index_of_other_images_is_made_anew(bring, call):
    bring("samples.npz", "heldout.npz", "train.index")
    index = Path("train.index").read_bytes()
    told = call(
        "measure", "samples.npz", "--train", "heldout.npz", "--index", "train.index", "--out", "with.json"
    )
    assert told.code == 0, told.err
    assert Path("train.index").read_bytes() != index
    assert call("measure", "samples.npz", "--train", "heldout.npz", "--out", "without.json").code == 0
    assert record("with.json") == record("without.json")


def test_stored_neighbours_are_read():
    found = Neighbours.load(STORES / "measured-samples.neighbours.npz")
    old = record(STORES / "measured-samples.json")
    assert len(found) == old["memorized"]["total"]
    assert RatioRule()(found).sum() == old["memorized"]["count"]
    values = np.prod(open_images(STORES / "samples.npz").shape)
    assert found.distances[:, 0].mean() / np.sqrt(values) == pytest.approx(old["mean_nearest_rms"])


def test_the_gap_of_a_run_is_taken_from_its_cache(bring, call):
    bring("runs", "train.npz", "heldout.npz", "gap")
    old = record("gap/gap.json")
    cached = {path: path.stat().st_mtime_ns for path in Path("gap/runs").iterdir()}
    Path("gap/gap.json").unlink()
    told = call(
        *("gap", FINISHED, "--train", "train.npz", "--heldout", "heldout.npz", "--out", "gap"),
        *("--samples", 16, "--set=steps=6"),
    )
    assert told.code == 0, told.err
    assert {path: path.stat().st_mtime_ns for path in Path("gap/runs").iterdir()} == cached
    assert holds(record("gap/gap.json")["runs"], old["runs"])


def test_the_optimum_of_the_same_images_is_the_same(bring, call):
    bring("train.npz")
    told = call("optimum", "train.npz", "--out", "optimum", "--queries", 20, "--sigmas", "0.1,0.5,2")
    assert told.code == 0, told.err
    new, old = record("optimum/optimum.json"), record(STORES / "optimum" / "optimum.json")
    assert new["fingerprint"] == old["fingerprint"]
    for ours, theirs in zip(new["points"], old["points"], strict=True):
        assert ours["own_weight"] == pytest.approx(theirs["own_weight"])
        assert ours["entropy"] == pytest.approx(theirs["entropy"])


def test_canaries_are_read_with_the_set_that_they_were_planted_in():
    canaries, train = CanarySet.load(STORES / "train.canaries.npz"), open_images(STORES / "train.npz")
    assert canaries.fingerprint == train.fingerprint
    assert len(canaries) == 6
    held = [image.tobytes() for image in train.images]
    assert [held.count(image.tobytes()) for image in canaries.planted] == [canaries.repeats] * 6
    assert not any(image.tobytes() in held for image in canaries.control)


def test_the_record_of_an_audit_is_refused_with_the_way_out():
    text = (STORES / "audit" / "audit.json").read_text()
    with pytest.raises(UserError) as caught:
        AuditResult.model_validate_json(text)
    told = str(caught.value)
    assert "'diffmem-audit/1'" in told
    assert "diffmem audit --train" in told
    assert "\n" not in told


def test_an_audit_is_done_again_in_its_folder_and_finds_the_same_exposure(bring, call):
    bring("runs", "train.npz", "train.canaries.npz", "heldout.npz", "audit")
    old = record("audit/audit.json")
    told = call(
        *(
            "audit",
            "--train",
            "train.npz",
            "--heldout",
            "heldout.npz",
            "--model",
            FINISHED,
            "--num",
            100,
            "--set=steps=12",
        ),
        *("--canaries", "train.canaries.npz", "--out", "audit"),
    )
    assert told.code == old["verdict"]["exit_code"], told.err
    new = record("audit/audit.json")
    assert new["schema_version"] != old["schema_version"]
    for ours, theirs in zip(new["exposure"], old["exposure"], strict=True):
        assert ours["source"] == theirs["source"]
        assert ours["exposures"] == pytest.approx(theirs["exposures"])
        assert ours["p_value"] == pytest.approx(theirs["p_value"])
