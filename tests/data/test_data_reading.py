import pytest

from diffmem.data import Reading, parse_reading
from diffmem.errors import UserError


def test_pairs_become_a_reading():
    pairs = [
        "alpha=black",
        "exif = apply",
        "white=4095",
        "pages=all",
        "fit=pad",
        "resolution=32",
        "split=val",
        "images_key=x",
        "labels_key=none",
        "range=-1..1",
        "layout=hwc",
        "follow_links=True",
    ]
    reading = Reading("black", "apply", 4095, "all", "pad", 32, "val", "x", "none", "-1..1", "hwc", True)
    assert parse_reading(pairs) == reading
    assert parse_reading([f"{key}={value}" for key, value in reading.choices().items()]) == reading
    assert parse_reading([]) == Reading()


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        (["alpha"], "'alpha' is no key=value"),
        (["alpha="], "no key=value"),
        (["alfa=black"], "no 'alfa' to choose. Did you mean 'alpha'.* Keys are alpha, exif, white"),
        (["alpha=blue"], "alpha 'blue' is unknown; choose white, black or drop"),
        (["follow_links=perhaps"], "follow_links must be true or false, not 'perhaps'"),
        (["exif=turn"], "choose ignore or apply"),
        (["pages=last"], "choose first, all or refuse"),
        (["fit=squash", "resolution=8"], "choose crop, stretch or pad"),
        (["white=4k"], "white must be a whole number, not '4k'"),
        (["white=-1"], "white must be a whole number"),
        (["white=0"], "from 1 to 65,535, not 0"),
        (["white=70000"], "from 1 to 65,535"),
        (["white=9", "white=10"], "white is chosen twice: 9 and 10"),
        (["range=0..255"], "range '0..255' is unknown; choose 0..1 or -1..1"),
        (["layout=nchw"], "choose chw or hwc"),
        (["fit=crop"], "fit crop needs a resolution"),
        (["resolution=32"], "resolution 32 needs a fit"),
        (["fit=crop", "resolution=5000"], "between 1 and 4096"),
    ],
)
def test_a_wrong_pair_is_told_with_what_is_permitted(pairs, told):
    with pytest.raises(UserError, match=told):
        parse_reading(pairs)


def test_what_differs_from_the_usual_is_listed():
    assert Reading().choices() == {}
    assert Reading(alpha="drop", white=4095).choices() == {"alpha": "drop", "white": "4095"}
