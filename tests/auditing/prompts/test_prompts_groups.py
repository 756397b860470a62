from dataclasses import replace

import pytest
from data_builders import image_set

from diffmem.auditing.prompts.groups import prompted, trigger_words
from diffmem.data.prompts import PromptList
from diffmem.errors import UserError

CAPTIONS = tuple(
    f"a photo of sks dog, {place}" for place in ("beach", "forest", "desk", "snow", "car", "home")
)


def prompt_list(texts, groups=None, files=None, seeds=None):
    none = (None,) * len(texts)
    return PromptList(tuple(texts), tuple(groups or none), tuple(files or none), tuple(seeds or none))


def training(captions=CAPTIONS):
    return replace(image_set(len(captions)), captions=captions)


def names(count):
    return [f"{number:03}.png" for number in range(count)]


def test_prompts_are_grouped_by_what_the_training_set_holds():
    texts = [
        "A photo  of SKS dog, beach",
        "sks",
        "a photo of sks dog",
        "sks dog on the moon",
        "a cat",
        "",
        "a held out cat",
    ]
    found = prompted(prompt_list(texts), names(7), training(), ["a held out  cat"])
    assert found.trigger == ("dog", "sks")
    assert found.groups == ("train", "trigger", "trigger", "new", "new", "empty", "control")


def test_a_group_that_the_list_gives_counts():
    found = prompted(prompt_list(["sks", "x"], ["control", "train"]), names(2), training(), ())
    assert found.groups == ("control", "train")


def test_seeds_of_one_prompt_are_one_cluster_whatever_the_order_and_the_spaces():
    found = prompted(prompt_list(["x", "y", "X ", "y"], seeds=[1, 2, 3, 4]), names(4), training(), ())
    assert (found.texts, found.of_sample.tolist(), found.seeds) == (("x", "y"), [0, 1, 0, 1], (1, 2, 3, 4))


def test_files_tell_which_prompt_an_image_was_made_of():
    made = prompt_list(["x", "y"], files=["b.png", "a.png"])
    found = prompted(made, ["a.png", "b.png"], training(), ())
    assert [found.texts[at] for at in found.of_sample] == ["y", "x"]
    elsewhere = prompted(made, ["images/a.png", "images/b.png"], training(), ())
    assert elsewhere.of_sample.tolist() == found.of_sample.tolist()


@pytest.mark.parametrize(
    ("prompts", "samples", "text"),
    [
        (
            prompt_list(["x"], files=["a.png"]),
            ["a.png", "b.png"],
            "1 sample of 2 not in the list of prompts, first b.png",
        ),
        (prompt_list(["x", "y"], files=["a.png", "b.png"]), ["a.png"], "names b.png, which is no sample"),
        (prompt_list(["x", "y"], files=["a.png", "a.png"]), ["a.png"], "names a.png twice"),
        (prompt_list(["x", "y"], files=["a.png", None]), ["a.png"], "1 of 2 prompts name no file"),
        (prompt_list(["x"]), ["a.png", "b.png"], "2 samples and 1 prompts without names"),
        (prompt_list(["x", "y"]), ["10.png", "2.png"], "10.png stands before 2.png"),
        (
            prompt_list(["x", "X"], ["train", "control"]),
            ["1.png", "2.png"],
            "has two groups, train and control",
        ),
    ],
)
def test_a_list_that_does_not_tell_each_prompt_is_refused(prompts, samples, text):
    with pytest.raises(UserError, match=text):
        prompted(prompts, samples, training(), ())


def test_few_captions_and_common_words_make_no_trigger():
    assert trigger_words(["sks a", "sks b", "sks c", "sks d"]) == ()
    assert trigger_words([f"a photo of {word}" for word in "vwxyz"]) == ()
    assert trigger_words([f"sks {word}" for word in "vwxyz"]) == ("sks",)
    assert trigger_words([*(f"sks {word}" for word in "vwxy"), "z"]) == ("sks",)
