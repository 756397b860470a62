"""Images of the closed-form optimum from the command line."""

import numpy as np
import pytest
from cli_builders import caller

from diffmem.data import open_images


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    np.savez("data.npz", images=images, labels=np.array([0, 0, 1, 1, 2, 2]))
    return caller(capsys)


def copied(made, images):
    """For each generated image, the image it copies up to one grey level."""
    distances = np.abs(made[:, None].astype(int) - images[None]).max(axis=(2, 3, 4))
    assert (distances.min(axis=1) <= 1).all()
    return distances.argmin(axis=1)


def test_the_optimum_copies_its_data(call):
    done = call("generate", "--optimum", "data.npz", "s.npz", "--seeds", "0-7", "--device", "cpu")
    assert (done.code, done.err) == (0, "")
    told = done.out.splitlines()
    assert told[0] == "s.npz: 8 images of 4x4x3 from the optimum of 6 images of data.npz"
    assert told[1].startswith("denoised 280 times, at any pixel within ")  # 8 images, 35 calls
    assert float(told[1].split("within ")[1].split()[0]) < 2e-5
    made = open_images("s.npz")
    copied(made.images, open_images("data.npz").images)
    assert made.labels is None
    assert made.history[0] == "generated from the optimum of 6 images"


def test_the_conditional_optimum_copies_the_class_that_is_asked_for(call):
    words = (
        "generate",
        "--optimum",
        "data.npz",
        "--conditional",
        "s.npz",
        "--seeds",
        "0-7",
        "--device",
        "cpu",
    )
    assert call(*words, "--labels", 1).code == 0
    made, data = open_images("s.npz"), open_images("data.npz")
    assert (data.labels[copied(made.images, data.images)] == 1).all()
    assert call(*words).code == 0
    made = open_images("s.npz")
    np.testing.assert_array_equal(data.labels[copied(made.images, data.images)], made.labels)
    assert len(set(made.labels)) > 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "s.npz"], "not 1 paths: diffmem generate MODEL OUT"),
        (["generate"], "not 0 paths"),
        (["generate", "run", "s.npz", "more.npz"], "not 3 paths"),
        (
            ["generate", "run", "s.npz", "--optimum", "data.npz"],
            "With --optimum, name the file to write alone",
        ),
        (["generate", "--optimum", "data.npz"], "With --optimum, name the file to write alone, not 0 paths"),
        (["generate", "run", "s.npz", "--conditional"], "--conditional belongs to --optimum"),
        (["generate", "--optimum", "missing.npz", "s.npz"], "missing.npz"),
        (["generate", "--optimum", "data.npz", "s.npz", "--labels", "1"], "unconditional"),
        (["generate", "--optimum", "data.npz", "s.npz", "--workspace", "0"], "at least 1 byte"),
    ],
)
def test_a_model_and_an_optimum_exclude_each_other(call, tmp_path, words, message):
    done = call(*words)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "s.npz").exists()
