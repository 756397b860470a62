import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import diffmem
from diffmem.auditing.prompts.report.part import prompts_csv, prompts_part
from diffmem.data import ImageSet
from diffmem.data.prompts import PromptList
from diffmem.errors import UserError

SEEDS = 3
SECRET = "a very private caption"
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (1200, 3, 8, 8), dtype=np.uint8)
"""Noise: no image is near another one."""


def images(pixels, name, captions=None, repeats=None):
    names = tuple(f"{name}{number:04}.png" for number in range(len(pixels)))
    return ImageSet(np.ascontiguousarray(pixels), None, names, captions=captions, repeats=repeats)


def training():
    captions = (SECRET, *(f"caption {number}" for number in range(1, 40)))
    return images(PIXELS[:40], "t", captions, np.where(np.arange(40) < 10, 5, 1))


def made():
    """10 training captions, 5 new prompts and 5 control prompts with 3 samples each; captions 0 to 3 copy their image once, caption 4 twice
    that of caption 30, and the control prompt 15 that of caption 0, as caption 0 of the base model does."""
    texts = [*training().captions[:10], *(f"new {n}" for n in range(5)), *(f"other {n}" for n in range(5))]
    groups = [None] * 15 + ["control"] * 5
    pixels = PIXELS[100 : 100 + len(texts) * SEEDS].copy()
    base = PIXELS[500 : 500 + len(texts) * SEEDS].copy()
    pixels[np.arange(4) * SEEDS] = training().images[:4]
    pixels[[12, 13]] = training().images[30]
    pixels[45] = base[1] = training().images[0]
    pixels[30] = 7  # a new prompt gave one colour
    entries = [at for at in range(len(texts)) for _ in range(SEEDS)]
    names = tuple(f"made{number:04}.png" for number in range(len(entries)))
    prompts = PromptList(
        tuple(texts[at] for at in entries), tuple(groups[at] for at in entries), names, tuple(range(100, 160))
    )
    return images(pixels, "made"), images(base, "made"), prompts


@pytest.fixture(scope="module")
def audit():
    samples, base, prompts = made()
    heldout = images(PIXELS[800:], "h")
    return diffmem.audit(training(), samples=samples, heldout=heldout, prompts=prompts, base_samples=base)


def groups_of(audit):
    return {one.group: one for one in audit.prompts.record.groups}


def test_planted_copies_are_counted_by_prompt_and_told_from_copies_of_other_captions(audit):
    found = groups_of(audit)
    assert set(found) == {"train", "new", "control"}
    assert (found["train"].copied.count, found["train"].copied.total, found["train"].own.count) == (5, 10, 4)
    assert found["train"].share.value == pytest.approx((4 * 1 / 3 + 2 / 3) / 10)
    assert (found["control"].copied.count, found["control"].copied.total) == (1, 5)
    assert (found["new"].copied.count, found["new"].samples, audit.prompts.record.unjudged) == (0, 14, 1)


def test_the_base_model_is_paired_prompt_by_prompt(audit):
    paired = groups_of(audit)["train"].base
    assert (paired.copied.count, paired.more, paired.fewer) == (1, 4, 0)
    assert paired.p_value == pytest.approx(1 / 16)


def test_captions_are_counted_by_how_often_an_epoch_holds_their_image():
    samples, _, prompts = made()
    texts = tuple(text.replace("new ", "caption 2") for text in prompts.texts)
    found = diffmem.audit(training(), samples=samples, prompts=replace(prompts, texts=texts)).prompts.record
    assert [(one.repeats, one.prompts, one.copied.count) for one in found.levels] == [(1, 5, 0), (5, 10, 4)]


def test_the_worst_prompt_is_told_with_its_seeds_and_images(audit):
    worst = audit.prompts.record.worst
    assert (worst[0].prompt, worst[0].copies, worst[0].own, worst[0].training, worst[0].seeds) == (
        "caption 4", 2, 0, [30], [112, 113],
    )  # fmt: skip
    assert (worst[1].prompt, worst[1].own, worst[1].repeats, worst[1].base) == (SECRET, 1, 5, 1)


def clean_audit(names):
    """660 samples of 40 prompts, each a colour of its own with noise, audited with and without the prompts."""
    rng, heldout = np.random.default_rng(5), images(PIXELS[800:], "h")
    colours = rng.integers(60, 200, (40, 3, 1, 1))
    pixels = np.clip(colours[np.arange(660) % 40] + rng.normal(0, 30, (660, 3, 8, 8)), 0, 255).astype(
        np.uint8
    )
    texts = tuple(training().captions[at % 40] for at in range(660))
    prompts = PromptList(texts, (None,) * 660, tuple(names), (None,) * 660)
    samples = images(pixels, "made")
    by_sample = diffmem.audit(training(), samples=samples, heldout=heldout).verdict
    return by_sample, diffmem.audit(training(), samples=samples, heldout=heldout, prompts=prompts)


def test_none_found_by_sample_is_cannot_tell_where_the_prompts_are_few():
    by_sample, found = clean_audit([f"made{number:04}.png" for number in range(660)])
    assert (by_sample.verdict, found.verdict.verdict, found.verdict.exit_code) == (
        "none found",
        "cannot tell",
        4,
    )
    assert "no prompt of 40 copies, which excludes a share of 7.22% only" in found.verdict.sentence
    assert found.prompts.record.follows.follows


def test_a_list_of_other_samples_is_noticed():
    order = np.random.default_rng(2).permutation(660)
    _, found = clean_audit([f"made{number:04}.png" for number in order])
    assert found.verdict.verdict == "cannot tell"
    assert "Is this the list of these samples?" in found.verdict.sentence
    assert "Is this the list of these samples?" in found.prompts.record.notes[0]


def test_copies_are_found_whatever_the_prompts(audit):
    assert audit.verdict.verdict == "copies found"
    assert "with the base model 1 of 10 (4 only here, 0 only there, p = 0.062)" in " ".join(
        audit.verdict.reasons
    )


def test_samples_of_a_prompt_stand_in_the_order_of_their_seeds():
    samples, _, prompts = made()
    turned = replace(prompts, seeds=tuple(reversed(prompts.seeds)))
    found = diffmem.audit(training(), samples=samples, prompts=turned).prompts
    assert found.prompts[0].seeds == [146, 147]
    assert found.of_prompt[0].tolist() == [14, 13, 12]


def test_the_order_of_the_list_changes_nothing(audit):
    samples, base, prompts = made()
    order = np.random.default_rng(1).permutation(len(prompts))
    shuffled = PromptList(
        *(tuple(getattr(prompts, key)[at] for at in order) for key in ("texts", "groups", "files", "seeds"))
    )
    heldout = images(PIXELS[800:], "h")
    found = diffmem.audit(training(), samples=samples, heldout=heldout, prompts=shuffled, base_samples=base)
    assert found.prompts.record.groups == audit.prompts.record.groups


def test_a_repeat_of_a_copy_is_a_copy_of_its_own_prompt():
    samples, _, prompts = made()
    pixels = samples.images.copy()
    pixels[18] = training().images[0]  # caption 6, as caption 0
    found = groups_of(diffmem.audit(training(), samples=images(pixels, "made"), prompts=prompts))
    assert (found["train"].copied.count, found["train"].own.count) == (6, 4)


def test_an_image_that_the_set_holds_twice_belongs_to_both_captions():
    twice = images(np.concatenate([PIXELS[:40], PIXELS[:1]]), "t", (*training().captions, "caption 9b"))
    samples, _, prompts = made()
    texts = tuple("caption 9b" if text == SECRET else text for text in prompts.texts)
    found = groups_of(diffmem.audit(twice, samples=samples, prompts=replace(prompts, texts=texts)))
    assert found["train"].own.count == 4


def test_the_samples_themselves_are_no_base_samples():
    samples, _, prompts = made()
    with pytest.raises(UserError, match="are the same images: there is nothing to compare"):
        diffmem.audit(training(), samples=samples, prompts=prompts, base_samples=samples)


@pytest.mark.usefixtures("undrawn")
def test_a_private_report_holds_no_image_caption_or_file_name_also_of_an_earlier_one(tmp_path):
    samples, base, prompts = made()
    found = diffmem.audit(training(), samples=samples, prompts=prompts, base_samples=base, private=True)
    (tmp_path / "prompts.csv").write_text(SECRET)
    found.save(tmp_path)
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert not any(
            word in content for word in (SECRET.encode(), b"caption 4", b"other 0", b"made0012", b"t0030")
        )
    page = (tmp_path / "audit.html").read_text()
    by_prompt = page[page.index("<h2>By prompt") :]
    assert "<img" not in by_prompt[: by_prompt.index("</section>")]
    assert "prompt,prompt_hash" not in (tmp_path / "prompts.csv").read_text()
    assert json.loads((tmp_path / "prompts.json").read_text())["worst"][0]["prompt"] is None
    replace(found, prompts=None).save(tmp_path)
    assert not [file.name for file in tmp_path.iterdir() if file.name.startswith("prompts")]


def test_the_part_of_the_page_shows_training_image_samples_and_base_samples_of_each_worst_prompt(audit):
    html = prompts_part(audit.prompts, audit.found.shown).html
    brought, html = html.split("by the usual criteria")
    assert (brought.count("<img"), html.count("<img")) == (4, 6)
    content = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", html).group(1))
    strip = np.asarray(Image.open(io.BytesIO(content)))
    size = 96 + 2 * 3
    assert strip.shape == (size, 7 * size + 2 * 12 + 4 * 6, 3)
    first, second = strip[3:-3, 3 : size - 3], strip[3:-3, size + 15 : 2 * size + 9]
    np.testing.assert_array_equal(first[::12, ::12].transpose(2, 0, 1), training().images[30])
    np.testing.assert_array_equal(second, first)


def test_captions_that_bring_their_image_back_by_the_one_criterion_are_shown_with_it(audit):
    """Also where the usual criteria flag nothing: captions 0 to 3, each once."""
    bare = replace(audit.prompts, copied=np.full(60, -1), base_copied=np.full(60, -1))
    html = prompts_part(bare, audit.found.shown).html.split("by the usual criteria")[0]
    near = {one.prompt: one.near for one in audit.prompts.prompts}
    assert [near[text] for text in (*training().captions[:5], "new 0")] == [1, 1, 1, 1, 0, None]
    assert html.count("1 of 3 samples; seen 5 times an epoch.") == 4
    content = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", html).group(1))
    strip = np.asarray(Image.open(io.BytesIO(content)))
    size = 96 + 2 * 3
    np.testing.assert_array_equal(strip[3:-3:12, 3 : size - 3 : 12].transpose(2, 0, 1), training().images[0])
    assert strip[0, size + 12].tolist() == [154, 51, 0]  # the copy stands first, framed


def test_a_caption_that_looks_like_markup_is_text():
    samples, _, prompts = made()
    texts = tuple("<b>=x</b>" if text == SECRET else text for text in prompts.texts)
    set_ = replace(training(), captions=("<b>=x</b>", *training().captions[1:]))
    found = diffmem.audit(set_, samples=samples, prompts=replace(prompts, texts=texts))
    html = prompts_part(found.prompts, found.found.shown).html
    assert "&lt;b&gt;=x&lt;/b&gt;" in html
    assert "<b>=x" not in html


def test_a_prompt_that_a_spreadsheet_would_run_gets_an_apostrophe(audit):
    worst = [audit.prompts.prompts[0].model_copy(update={"prompt": "=1+1"})]
    assert prompts_csv(worst, private=False).splitlines()[1].startswith("'=1+1,")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"samples": None, "model": "x"}, "belongs to samples"),
        ({"training": None}, "belongs to samples"),
        ({"prompts": None}, "give the list of prompts"),
        ({"prompts": ["x"]}, "a PromptList or the path of a list, not list"),
        ({"base_samples": images(PIXELS[:3], "made")}, "60 samples and 3 of the base model"),
        ({"base_samples": images(PIXELS[:60], "else")}, "made0000.png stands beside else0000.png"),
        ({"base_samples": images(PIXELS[:60, :, :4, :4], "made")}, "the same size"),
    ],
)
def test_what_does_not_go_together_is_refused(change, text):
    samples, base, prompts = made()
    given = {"training": training(), "samples": samples, "prompts": prompts, "base_samples": base} | change
    with pytest.raises(UserError, match=text):
        diffmem.audit(given.pop("training"), **given)
