import json

import pytest
from cli_builders import caller
from parameters import few

from diffmem.data import open_images
from diffmem.studies import emm

pytestmark = pytest.mark.cifar

RECIPE = """
title: CIFAR-10 in miniature
data: {source: SOURCE, resolution: 8, selection: balanced, heldout: 20, heldout_split: test}
sizes: [10, 20]
model: {channels: 8, multipliers: [1], blocks: 1, attention: [], dropout: 0, preconditioning: edm}
training: {epochs: 10, batch_size: 10, warmup: 1, evaluations: {count: 2}}
sampling: {steps: 3}
measure: {samples: 8}
"""


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(emm, "_REPLICATES", 50)
    return caller(capsys)


def test_a_balanced_set_of_the_archive_is_built_at_its_own_resolution(call, cifar_archive):
    assert call("data", "build", cifar_archive, "c.zip", "--size", 100, "--resolution", 32).code == 0
    images = open_images("c.zip")
    assert images.images.shape == (100, 3, 32, 32)
    assert sorted(images.labels.tolist()) == sorted(list(range(10)) * 10)
    assert "airplane" in images.class_names


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("conditional", few([True, False], 1))
def test_a_study_of_the_archive_holds_out_its_test_images(call, tmp_path, cifar_archive, conditional):
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("SOURCE", str(cifar_archive)))
    labels = ["--set", f"data.labels={str(conditional).lower()}"]
    done = call("study", "recipe.yaml", "--out", "st", "--workers", 1, *labels)
    assert done.code == 0
    (found,) = json.loads((tmp_path / "st" / "report.json").read_text())["levels"]
    assert ("conditional on the true labels" in found["data"]) == conditional
    assert "8x8x3" in found["data"]
    assert [record["size"] for record in found["runs"]] == [10, 20]
    assert all(record["null"]["total"] == 20 for record in found["runs"])
    trained = {path.name.split("-")[0]: open_images(path) for path in (tmp_path / "st" / "data").iterdir()}
    assert not set(trained["train"].names) & set(trained["heldout"].names)
    assert trained["heldout"].images.shape == (20, 3, 8, 8)


def test_every_image_that_the_optimum_of_a_thousand_images_generates_is_one_of_them(
    call, tmp_path, cifar_archive_of_1000
):
    assert call("data", "build", cifar_archive_of_1000, "c.npy", "--size", 1000).code == 0
    assert call("generate", "--optimum", "c.npy", "s.npz", "--seeds", "0-99", "--device", "cpu").code == 0
    done = call("measure", "s.npz", "--train", "c.npy", "--out", "m.json")
    assert done.code == 0
    found = json.loads((tmp_path / "m.json").read_text())
    assert found["memorized"]["value"] == 1.0
    assert found["memorized"]["total"] == 100
