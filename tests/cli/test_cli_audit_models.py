"""Audits of models on the command line: of several, one page compares them."""

import json

import numpy as np
import pytest
from cli_builders import caller

from diffmem.auditing.several import SeveralResult
from diffmem.data import open_images, write_images
from diffmem.models import ModelConfig, build_denoiser, save_denoiser

TINY = ModelConfig(architecture="ddpmpp", channels=4, multipliers=(1,), blocks=1, attention=(), dropout=0.0)
FEW = ["--num", 12, "--set", "steps=2", "--device", "cpu"]


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(open_images("digits").take(np.arange(60), "some"), tmp_path / "train.npz")
    for seed, name in enumerate(("step-100", "step-200")):
        save_denoiser(
            build_denoiser(TINY, (1, 8, 8), 0, seed), TINY, tmp_path / f"{name}.safetensors", {"epoch": "1"}
        )
    return caller(capsys)


@pytest.mark.usefixtures("undrawn", "few_controls")
def test_several_models_are_audited_each_and_compared_on_one_page(call, tmp_path):
    models = ["step-100.safetensors", "step-200.safetensors"]
    done = call("audit", "--train", "train.npz", "--model", *models, "--out", "out", *FEW)
    found = SeveralResult.model_validate(json.loads((tmp_path / "out/audit.json").read_text()))
    assert [one.name for one in found.models] == models
    assert done.code == found.exit_code == 4
    assert "model: diffmem snapshot: step-200.safetensors at epoch 1. SongUNet, " in done.err
    page = (tmp_path / "out/audit.html").read_text()
    for one in found.models:
        alone = json.loads((tmp_path / "out" / one.folder / "audit.json").read_text())
        assert alone["verdict"]["sentence"] == one.verdict.sentence
        assert alone["model"]["text"] == one.text
        assert f'href="{one.folder}/audit.html"' in page
        assert (tmp_path / "out" / one.folder / "audit.html").is_file()
        assert one.text.split(" parameters")[0] in (tmp_path / "out" / one.folder / "audit.html").read_text()


@pytest.mark.usefixtures("undrawn", "few_controls")
def test_a_private_comparison_names_no_file(call, tmp_path):
    models = ["step-100.safetensors", "step-200.safetensors"]
    done = call("audit", "--train", "train.npz", "--model", *models, "--out", "out", "--private", *FEW)
    assert "step-" not in done.out + done.err
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) >= 6
    for path in written:
        assert "step-" not in str(path.relative_to(tmp_path))
        assert b"step-" not in path.read_bytes()


def test_a_model_that_does_not_open_is_said_before_any_is_audited(call, tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"hello")
    done = call(
        "audit", "--train", "train.npz", "--model", "step-100.safetensors", "bad.pt", "--out", "out", *FEW
    )
    assert (done.code, "bad.pt" in done.err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_options_of_a_model_are_refused_with_samples(call):
    done = call("audit", "--samples", "train.npz", "--train", "train.npz", "--out", "out", "--weights", "raw")
    assert (done.code, "--weights is for a model that is opened" in done.err) == (2, True)
