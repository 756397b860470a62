import json

import numpy as np
import pytest
from cli_builders import caller

from diffmem.data import open_images
from diffmem.optimum.curves import OptimumCurves, optimum_curves


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    np.savez("data.npz", images=images, labels=np.arange(30) % 3)
    np.savez("bare.npz", images=images)
    return caller(capsys)


WORDS = ["--queries", 40, "--device", "cpu"]


def test_curves_are_printed_drawn_and_written(call, tmp_path):
    done = call("optimum", "data.npz", "--out", "there", *WORDS)
    assert (done.code, done.err) == (0, "")
    names = sorted(path.name for path in (tmp_path / "there").iterdir())
    assert names == ["optimum.html", "optimum.json", "optimum.png", "optimum.svg"]
    assert "own weight falls through 1/2 at sigma" in done.out
    assert done.out.endswith("there/optimum.json\nthere/optimum.html\nthere/optimum.png\nthere/optimum.svg\n")
    found = OptimumCurves.model_validate(json.loads((tmp_path / "there" / "optimum.json").read_text()))
    assert found == optimum_curves(open_images("data.npz"), queries=40, data="data.npz")


@pytest.mark.usefixtures("undrawn")
def test_the_same_command_writes_the_same_numbers(call, tmp_path):
    written = []
    for _ in range(2):
        assert call("optimum", "bare.npz", "--sigmas", "1,0.5,2", *WORDS).code == 0
        written.append((tmp_path / "optimum" / "optimum.json").read_text())
    assert written[0] == written[1]
    assert [point["sigma"] for point in json.loads(written[0])["points"]] == [0.5, 1, 2]
    assert call("optimum", "bare.npz", "--sigmas", "1,0.5,2", "--seed", 1, *WORDS).code == 0
    assert (tmp_path / "optimum" / "optimum.json").read_text() != written[0]


@pytest.mark.usefixtures("undrawn")
def test_the_conditional_optimum_averages_its_class(call, tmp_path):
    assert call("optimum", "data.npz", "--conditional", "--sigmas", "80", *WORDS).code == 0
    found = json.loads((tmp_path / "optimum" / "optimum.json").read_text())
    assert found["conditional"]
    assert found["points"][0]["effective_number"]["value"] == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimum", "missing.npz"], "missing.npz"),
        (["optimum", "data.npz", "--sigmas", "1,a"], "noise levels '1,a'"),
        (["optimum", "data.npz", "--sigmas", "0"], "noise levels '0'"),
        (["optimum", "data.npz", "--sigmas", "inf"], "noise levels 'inf'"),
        (["optimum", "data.npz", "--queries", "0"], "at least 1 query"),
        (["optimum", "bare.npz", "--conditional"], "these have none"),
        (["optimum", "data.npz", "--device", "tpu"], "tpu"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_nothing_is_written(call, tmp_path, words, message):
    done = call(*words)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "optimum").exists()
