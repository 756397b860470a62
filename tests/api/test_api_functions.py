import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import diffmem as dm
from diffmem.optimum.curves import optimum_curves
from diffmem.optimum.gap import GapSettings
from diffmem.studies.quickstart import quickstart_recipe
from diffmem.studies.search.recipe import OnsetConfig

SMALL = {"channels": 8, "multipliers": (1,), "blocks": 1, "attention": (), "dropout": 0.0}


@pytest.fixture(scope="module")
def digits():
    return dm.open_images("digits")


@pytest.fixture(scope="module")
def train(digits):
    return digits.take(range(200), "200 digits")


@pytest.fixture(scope="module")
def heldout(digits):
    return digits.take(range(600, 900), "300 others")


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    return dm.train(
        digits.take(range(8), "8 digits"), model=dm.ModelConfig(**SMALL),
        training=dm.TrainingConfig(epochs=2, batch_size=8), out=tmp_path_factory.mktemp("runs"), device="cpu",
    )  # fmt: skip


def test_a_training_gives_a_model_and_prints_what_it_is(run, digits):
    assert run.model.image_shape == digits.shape
    assert str(run.folder) in str(run)
    assert "2 epochs" in run._repr_html_()


def test_settings_without_effect_are_told_by_every_verb_that_takes_them(run, digits, capsys):
    training = dm.TrainingConfig(epochs=2, batch_size=8, momentum=0.5)
    few, where = digits.take(range(8), "8 digits"), run.folder.parent
    dm.train(few, model=dm.ModelConfig(**SMALL), training=training, out=where, device="cpu")
    sampler = dm.SamplerConfig(steps=2, solver="euler", alpha=0.5)
    dm.generate(run.model, range(2), sampler=sampler, device="cpu")
    said = capsys.readouterr().err
    assert "warning: training.momentum = 0.5 has no effect: training.optimizer is adam.\n" in said
    assert "warning: alpha = 0.5 has no effect: solver is euler.\n" in said


def test_settings_may_be_keys_and_values_and_seeds_those_of_numpy(run, digits):
    few, where = digits.take(range(8), "8 digits"), run.folder.parent
    training = {"epochs": 2, "batch_size": 8}
    again = dm.train(few, model=SMALL, training=training, seed=np.int64(0), out=where, device="cpu")
    assert again.snapshot == run.snapshot
    with pytest.raises(dm.UserError, match="model: unknown key 'chanels'"):
        dm.train(few, model={"chanels": 8}, out=where, device="cpu")


@pytest.mark.parametrize("changes", [{"multipliers": (1,) * 5}, {"architecture": "optimum"}])
def test_a_model_that_cannot_be_trained_on_the_images_leaves_no_folder(digits, changes, tmp_path):
    with pytest.raises(dm.UserError, match=r"do not fit|no weights to train"):
        dm.train(digits.take(range(8), "8 digits"), model={**SMALL, **changes}, out=tmp_path, device="cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [1.5, 2**64])
def test_a_seed_that_is_no_whole_number_or_too_large_is_refused(run, digits, seed, tmp_path):
    with pytest.raises(dm.UserError, match="is not a whole number from"):
        dm.train(digits.take(range(8), "8 digits"), model=SMALL, seed=seed, out=tmp_path, device="cpu")
    assert list(tmp_path.iterdir()) == []
    for wrong in (seed, -1):
        with pytest.raises(dm.UserError, match="is no whole number from 0 to 4294967295"):
            dm.generate(run.model, [0, wrong], device="cpu")


def test_the_same_training_is_opened_and_not_done_again(run, digits, monkeypatch):
    monkeypatch.setattr("diffmem.runs.trained.Trainer", None)
    again = dm.train(
        digits.take(range(8), "the same"), model=dm.ModelConfig(**SMALL),
        training=dm.TrainingConfig(epochs=2, batch_size=8), out=run.folder.parent, device="cpu",
    )  # fmt: skip
    assert again.snapshot == run.snapshot


def test_labels_are_asked_for_before_training(digits, tmp_path):
    bare = digits.take(range(8), "8").with_labels(None, None, "without labels")
    with pytest.raises(dm.UserError, match="no labels"):
        dm.train(bare, conditional=True, out=tmp_path)


def test_images_of_a_seed_are_the_same_in_memory_and_in_a_file(run, tmp_path):
    made = dm.generate(run.model, seeds=[3, 5], device="cpu")
    kept = dm.generate(run.folder, seeds=[3, 5], out=tmp_path / "s.npz", device="cpu")
    assert made.names == ("seed000000003", "seed000000005")
    np.testing.assert_array_equal(made.images, kept.images)
    assert dm.open_images(tmp_path / "s.npz").fingerprint == made.fingerprint
    assert not (tmp_path / "s.npz.shards").exists()


def test_samples_are_written_as_files_of_images_only(run, tmp_path):
    with pytest.raises(dm.UserError, match=r"\.npz or \.zip"):
        dm.generate(run.model, seeds=[0], out=tmp_path / "s.png")


def test_a_measurement_of_copies_is_all_copies_and_prints_its_null(train, heldout, tmp_path):
    found = dm.measure(train, train, heldout=heldout, device="cpu")
    assert (found.rate.count, found.rate.total) == (200, 200)
    assert str(found).startswith("R_mem 100.0% [98.2, 100.0] (200/200), null 0.0%")
    assert "100.0%" in found._repr_html_()
    saved = json.loads(found.save(tmp_path / "m.json").read_text())
    assert saved["memorized"]["count"] == 200
    assert saved["fingerprints"]["train"] == train.fingerprint
    assert found.gallery(tmp_path / "g.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("method", "name"), [("save", "m.txt"), ("gallery", "g.jpg")])
def test_a_file_of_another_ending_is_refused(train, tmp_path, method, name):
    found = dm.measure(train, train, device="cpu")
    with pytest.raises(dm.UserError, match="must end in"):
        getattr(found, method)(tmp_path / name)


def test_arrays_and_paths_are_taken_for_images(train, tmp_path):
    dm.write_images(train, tmp_path / "t.npz")
    found = dm.measure(train.images[:120], str(tmp_path / "t.npz"), device="cpu")
    assert found.rate.count == 120
    assert "null not measured" in str(found)


def test_a_tensor_is_refused_with_the_remedy(train):
    with pytest.raises(dm.UserError, match=r"not Tensor.*\.cpu\(\)\.numpy\(\)"):
        dm.measure(torch.zeros(3, 1, 8, 8), train)


def test_every_snapshot_of_a_run_is_measured(run, digits, tmp_path):
    dm.write_images(digits.take(range(8), "8").with_labels(None, None, "bare"), tmp_path / "t.npz")
    found = dm.measure_run(
        run.folder, training=tmp_path / "t.npz", config=dm.MeasureConfig(samples=4), device="cpu"
    )
    assert len(found.record.evaluations) == len(run.run.points)
    assert "null not measured" in str(found)
    assert "epoch 2" in found._repr_html_()
    assert json.loads(found.save(tmp_path / "r.json").read_text())["run_id"] == run.run.run_id


@pytest.mark.usefixtures("undrawn")
def test_an_audit_of_copies_finds_them_prints_its_verdict_and_is_saved(train, heldout, tmp_path):
    audit = dm.audit(train, samples=train, heldout=heldout, device="cpu", title="Mine")
    assert audit.verdict.verdict == "copies found"
    assert str(audit.verdict).startswith("Copies found: 200 of 200")
    assert str(audit).startswith("Copies found")
    assert "Copies found" in audit._repr_html_()
    page = audit.save(tmp_path / "audit")
    assert "Mine" in page.read_text()
    assert json.loads((tmp_path / "audit" / "audit.json").read_text())["verdict"]["exit_code"] == 3


def test_the_optimum_as_a_function_of_the_callers_own_is_found_to_copy(train, heldout):
    known = torch.tensor(train.images).flatten(1) / 127.5 - 1

    def denoise(x, sigma, labels):
        distances = torch.cdist(x.flatten(1), known) ** 2
        return (torch.softmax(-distances / (2 * sigma[:, None] ** 2), dim=1) @ known).reshape(x.shape)

    model = dm.function_denoiser(denoise, train.shape, 0.01, 50)
    audit = dm.audit(train, model=model, heldout=heldout, num=150, transforms="flip", device="cpu")
    assert audit.verdict.verdict == "copies found"


def test_an_option_that_an_audit_does_not_know_is_refused(train):
    with pytest.raises(TypeError, match="privat"):
        dm.audit(train, samples=train, privat=True)


def test_a_model_on_disk_is_opened_as_a_denoiser(run):
    opened = dm.open_model(run.folder, device="cpu")
    x = torch.zeros(1, *opened.image_shape)
    torch.testing.assert_close(opened(x, 1.0), run.model(x, 1.0))


@pytest.mark.usefixtures("undrawn")
def test_a_search_prints_its_table_and_goes_on_in_its_folder(tmp_path):
    settings = {
        "model": SMALL, "training": {"epochs": 1, "batch_size": 8}, "measure": {"samples": 20},
        "data": {"heldout": 50, "selection": "random"}, "factor": "width", "executor": {"kind": "inline"},
    }  # fmt: skip
    study = dm.find_emm("digits", (4, 8), levels={"8": {}}, out=tmp_path / "s", device="cpu", **settings)
    assert study.emm["8"].status == study.levels["8"].emm.status == "below smallest"
    assert "below 4" in str(study)
    assert "below 4" in study._repr_html_()
    assert (tmp_path / "s" / "report.html").is_file()
    assert dm.open_emm(tmp_path / "s").emm == study.emm


def test_no_workers_and_seeds_below_zero_are_refused(digits, tmp_path):
    with pytest.raises(dm.UserError, match="workers: processes = 0"):
        dm.run_study(quickstart_recipe(), tmp_path / "s", workers=0)
    with pytest.raises(dm.UserError, match="seed must be 0 or more, not -1"):
        optimum_curves(digits.take(range(8), "8 digits"), queries=2, seed=-1)
    with pytest.raises(dm.UserError, match="seed must be 0 or more, not -1"):
        GapSettings(seed=-1)


def test_what_a_search_is_given_twice_is_refused(tmp_path):
    with pytest.raises(dm.UserError, match=r"line is 0.1, but onset\.line is 0.2"):
        dm.find_onset("digits", (4, 8), onset={"line": 0.2}, out=tmp_path / "s")
    with pytest.raises(dm.UserError, match="data has a source, 'other'"):
        dm.find_onset(
            "digits", (4, 8), data={"source": "other"}, onset=OnsetConfig(tolerance=0.5), out=tmp_path / "s"
        )


@pytest.mark.slow
def test_a_script_that_guards_nothing_searches_in_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import diffmem as dm\n"
        f"study = dm.find_emm('digits', (4, 8), out='s', device='cpu', model={SMALL}, training={{'epochs': 1, 'batch_size': 8}},"
        " measure={'samples': 20}, data={'heldout': 50, 'selection': 'random'}, executor={'kind': 'local', 'processes': 1})\n"
        "print(study.emm['base'].status)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "below smallest\n"


def test_a_search_of_a_set_at_hand_keeps_the_set(digits, tmp_path):
    with pytest.raises(dm.UserError, match="find_emm: unknown key 'modle'"):
        dm.find_emm(digits, (4, 8), out=tmp_path / "s", modle=SMALL)
    assert list((tmp_path / "s" / "data").glob("source-*.npz"))


def test_a_study_on_a_grid_prints_its_table_and_is_opened_again(tmp_path):
    recipe = dm.StudyRecipe(
        data=dm.DataConfig(source="digits", heldout=50, selection="random"), sizes=(4,), model=dm.ModelConfig(**SMALL),
        training=dm.TrainingConfig(epochs=1, batch_size=4), measure=dm.MeasureConfig(samples=4),
    )  # fmt: skip
    done = dm.run_study(recipe, tmp_path / "g", device="cpu", workers=1)
    assert (done.result.plan, list(done.levels)) == ("grid", ["base"])
    assert done.write_report().html.is_file()
    assert "EMM at 90%" in str(done)
    assert dm.open_study(tmp_path / "g").result.runs == done.result.runs
    with pytest.raises(dm.UserError, match="not the folder of a study"):
        dm.open_study(tmp_path)
