"""The self-test of audits of text-to-image models, and the fine-tune that it leaves."""

import shutil

import numpy as np
import pytest

import diffmem
from diffmem.api.text_selftest import HOME, text_self_test, write_emoji
from diffmem.auditing.prompts.planted import emoji_sets


def test_the_fine_tune_is_written_as_its_owner_has_it(tmp_path):
    write_emoji(tmp_path)
    assert (tmp_path / "model" / "model_index.json").is_file()
    assert len(list((tmp_path / "loras").glob("epoch-*.safetensors"))) == 10
    training, held = (diffmem.open_images(tmp_path / name) for name in ("dataset", "heldout"))
    wanted = emoji_sets().training
    by_caption = dict(zip(training.captions, training.repeats.tolist(), strict=True))
    assert by_caption == dict(zip(wanted.captions, wanted.repeats.tolist(), strict=True))
    assert held.captions == emoji_sets().heldout.captions
    assert np.array_equal(held.images, emoji_sets().heldout.images)
    write_emoji(tmp_path)  # what is there stays


def test_a_copy_in_which_it_was_ended_is_not_taken_for_the_fine_tune(tmp_path, monkeypatch):
    copies, copy = [], shutil.copy2

    def ended(source, target, **more):
        copies.append(target)
        if len(copies) == 3:
            raise KeyboardInterrupt
        return copy(source, target, **more)

    with monkeypatch.context() as patch:
        patch.setattr(shutil.copytree, "__defaults__", (False, None, ended, False, False))
        with pytest.raises(KeyboardInterrupt):
            write_emoji(tmp_path)
    write_emoji(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "heldout", "loras", "model"]
    for name in ("model", "loras"):
        held, wanted = (
            {path.relative_to(home / name) for path in (home / name).rglob("*")} for home in (tmp_path, HOME)
        )
        assert held == wanted


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_audit_finds_what_was_planted_and_nothing_else(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'diffmem[text]'")
    found = text_self_test(tmp_path)
    assert found.passed, found
    assert list(found.shares) == [64, 16, 4, 1]
    assert found.shares[1].count == 0
    assert "FAILED" not in str(found)
    assert (tmp_path / "audit" / "audit.html").is_file()
