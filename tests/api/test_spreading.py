"""The heavy parts of commands in pieces: the same results, however many work on them and whichever die."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from cli_builders import caller
from models_tools import tiny
from parameters import slow
from spread_tools import killing, pixels, split_all

from diffmem.api.auditing import audit
from diffmem.api.denoisers import generate
from diffmem.api.spreading import PoolSpread, model_by_path, read_executor, spread_over
from diffmem.errors import DiffmemError, UserError
from diffmem.executors.open import InlinePool, LocalPool
from diffmem.executors.pool import LostTaskError
from diffmem.models import open_model
from diffmem.models.config import ModelConfig
from diffmem.models.weights import save_denoiser
from diffmem.progress import NO_PROGRESS
from diffmem.sampling import SamplerConfig, generate_resumable
from diffmem.sampling import generate as generate_here
from diffmem.spread import Piece, spread, spreading
from diffmem.threads import one_thread

CONFIG = SamplerConfig(steps=2)
SEEDS = range(5, 29)
FIELDS = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}


def write_model(path, seed=0):
    save_denoiser(tiny(num_labels=3, seed=seed), ModelConfig(architecture="ddpmpp", **FIELDS), path)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    write_model(path)
    return path


def opened(model):
    return open_model(model, device="cpu")


def sampled(pool, folder, model, progress=NO_PROGRESS):
    """The images of the seeds, of which a pool makes two at a time."""
    place = PoolSpread("cpu", folder, model_by_path(model, {}))
    with pool, spreading(place):
        place.use(pool)
        return generate_resumable(
            opened(model), SEEDS, CONFIG, folder, "tag", batch_size=2, progress=progress
        ).images


@pytest.fixture
def expected(model):
    with one_thread():
        parts = [generate_here(opened(model), SEEDS[at : at + 2], CONFIG) for at in range(0, len(SEEDS), 2)]
    return np.concatenate([part.images for part in parts])


@pytest.mark.parametrize("workers", [1, slow(3), slow(8)])
def test_samples_do_not_depend_on_how_many_workers_make_them(workers, tmp_path, model, expected):
    pool = InlinePool() if workers == 1 else LocalPool(workers, threads=1 + workers % 2)
    np.testing.assert_array_equal(sampled(pool, tmp_path / "s", model), expected)


@pytest.mark.slow
def test_samples_are_the_same_where_a_worker_is_killed(tmp_path, model, expected, capsys):
    progress, victims = killing()
    np.testing.assert_array_equal(sampled(LocalPool(2, threads=1), tmp_path / "s", model, progress), expected)
    assert victims
    assert "done again" in capsys.readouterr().err


def test_batches_that_are_there_are_not_made_again(tmp_path, model, expected):
    sampled(InlinePool(), tmp_path / "s", model)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").iterdir()}
    first, second, *_ = sorted(before)
    first.unlink()
    second.write_bytes(b"damaged")
    np.testing.assert_array_equal(sampled(InlinePool(), tmp_path / "s", model), expected)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").iterdir()}
    assert after.keys() == before.keys()
    assert {path for path in before if before[path] != after[path]} == {first, second}


def test_a_model_that_was_replaced_meanwhile_is_refused(tmp_path, model):
    denoiser, place = opened(model), PoolSpread("cpu", tmp_path / "s", model_by_path(model, {}))
    write_model(model, 1)
    with InlinePool() as pool, spreading(place):
        place.use(pool)
        with pytest.raises(UserError, match="another model"):
            generate_resumable(denoiser, SEEDS, CONFIG, tmp_path / "s", "tag")


@pytest.fixture
def small(monkeypatch):
    split_all(monkeypatch)


def die(content, progress, warn):
    raise LostTaskError("The machine burns.")


def test_a_piece_that_kills_every_worker_is_given_up(tmp_path, capsys):
    place = PoolSpread("cpu", tmp_path, None)
    place.use(InlinePool())
    with pytest.raises(DiffmemError, match="3 times"):
        place.run([Piece("test_spreading:die", {})], NO_PROGRESS)
    assert capsys.readouterr().err.count("done again") == 2


def test_an_executor_is_a_word_or_a_file(tmp_path):
    assert read_executor("local").kind == "local"
    file = tmp_path / "cluster.yaml"
    file.write_text("kind: parsl\npath: here.py\n")
    assert read_executor(file).path == str(tmp_path / "here.py")
    for wrong in ("locla", tmp_path / "missing.yaml", "slurm"):
        with pytest.raises(UserError):
            read_executor(wrong)


def test_what_an_executor_cannot_do_is_refused_before_the_work(tmp_path, model):
    with pytest.raises(UserError, match="name the model"):
        model_by_path(tiny(), {})
    with pytest.raises(UserError, match="name the file"):
        generate(model, executor="local")
    (tmp_path / "two.yaml").write_text("kind: local\nprocesses_per_run: 2\n")
    for executor, folder, words in (
        ("local", None, "name a folder"),
        (tmp_path / "two.yaml", tmp_path, "leave it out"),
    ):
        with pytest.raises(UserError, match=words), spread_over(executor, "cpu", folder):
            pass
    assert spread() is None


def test_an_audit_in_pieces_finds_what_one_process_finds(tmp_path, model, small):
    training, heldout = pixels(200, 4), pixels(80, 5)
    given = {"heldout": heldout, "model": model, "num": 48, "sampler": CONFIG, "device": "cpu"}
    with one_thread():
        alone = audit(training, shards=tmp_path / "a", **given).result
    found = audit(training, shards=tmp_path / "b", executor="inline", **given).result
    assert found.model_dump() == alone.model_dump()
    assert {path.name.partition("-")[0] for path in (tmp_path / "b").iterdir()} == {"shard"}


def test_duplicates_in_pieces_are_written_as_by_one_process(tmp_path, small, capsys):
    np.savez(tmp_path / "d.npz", images=pixels(120, 7))
    call = caller(capsys)
    for folder, more in (("a", ()), ("b", ("--executor", "inline"))):
        words = ("data", "duplicates", tmp_path / "d.npz", "--radius", "0.7", "--out", tmp_path / folder)
        assert call(*words, *more).code == 0
    one, other = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in "ab")
    assert one.keys() == other.keys()
    assert one["duplicates.csv"] == other["duplicates.csv"]
    assert one["duplicates.json"] == other["duplicates.json"]


def test_images_that_a_network_file_system_shows_late_are_waited_for(tmp_path, model, expected, monkeypatch):
    """A file that was looked for is said not to be there for a while, though a worker has written it."""
    exists, looks = Path.exists, Counter()

    def shown_late(path):
        looks[path] += path.name.startswith("shard-")
        return exists(path) and looks[path] not in (2, 3)

    monkeypatch.setattr(Path, "exists", shown_late)
    made = sampled(InlinePool(), tmp_path / "work", model)
    np.testing.assert_array_equal(made, expected)
    assert max(looks.values()) > 3
