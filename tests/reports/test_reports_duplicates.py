import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from diffmem.data import ImageSet
from diffmem.errors import UserError
from diffmem.memorization import near_duplicates
from diffmem.reports.duplicates import duplicates_gallery, duplicates_tables, write_duplicates
from diffmem.reports.duplicates_gallery import ShownGroup, duplicates_figure


def image_set(classes=("cat", "dog"), labels=True):
    """Six images: 0, 3, 5 are a chain one level apart, 1 and 4 are equal but of different classes."""
    images = np.random.default_rng(0).integers(1, 250, (6, 3, 4, 5), dtype=np.uint8)
    images[3], images[5], images[4] = images[0] + 1, images[0] + 2, images[1]
    names = ("a", 'b, "c"', "[red]d[/red]", "d", "e", "f")
    return ImageSet(images, [0, 1, 0, 0, 0, 0] if labels else None, names, classes if labels else None)


def told(images, radius=1.0):
    console = Console(width=100, record=True, file=io.StringIO())
    for table in duplicates_tables("set.npz", images, near_duplicates(images.images, radius)):
        console.print(table)
    return " ".join(console.export_text().split())


def test_the_json_tells_all_groups_the_largest_first(tmp_path):
    images = image_set()
    write_duplicates("set.npz", images, near_duplicates(images.images), tmp_path)
    record = json.loads((tmp_path / "duplicates.json").read_text())
    groups = record.pop("groups")
    assert record == {
        "format": "diffmem duplicates 1",
        "source": "set.npz",
        "fingerprint": images.fingerprint,
        "images": 6,
        "radius": 1.0,
        "groups_found": 2,
        "images_in_groups": 5,
        "images_to_remove": 3,
        "groups_of_several_classes": 1,
    }
    assert groups == [
        {
            "images": [
                {"index": 0, "name": "a", "label": 0, "gap": 1.0},
                {"index": 3, "name": "d", "label": 0, "gap": 1.0},
                {"index": 5, "name": "f", "label": 0, "gap": 1.0},
            ],
            "nearest": 1.0,
            "widest": 2.0,
            "labels_differ": False,
        },
        {
            "images": [
                {"index": 1, "name": 'b, "c"', "label": 1, "gap": 0.0},
                {"index": 4, "name": "e", "label": 0, "gap": 0.0},
            ],
            "nearest": 0.0,
            "widest": 0.0,
            "labels_differ": True,
        },
    ]


def test_the_csv_has_a_row_for_each_image_in_a_group(tmp_path):
    images = image_set()
    write_duplicates("set.npz", images, near_duplicates(images.images), tmp_path)
    with (tmp_path / "duplicates.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["group", "index", "name", "label", "class", "gap", "kept"]
    assert rows[1] == ["1", "0", "a", "0", "cat", "1.0", "1"]
    assert rows[4] == ["2", "1", 'b, "c"', "1", "dog", "0.0", "1"]
    assert [row[-1] for row in rows[1:]] == ["1", "0", "0", "1", "0"]


def test_a_set_without_labels_or_class_names_is_told_too(tmp_path):
    images = image_set(labels=False)
    write_duplicates("set.npz", images, near_duplicates(images.images), tmp_path)
    assert "\n1,0,a,,,1.0,1\n" in (tmp_path / "duplicates.csv").read_text()
    assert "no labels" in told(images)
    assert "0, 1 b" in told(image_set(classes=None)).replace("1, 0", "0, 1")


def test_without_groups_there_is_no_gallery_and_an_old_one_is_removed(tmp_path):
    images = image_set()
    written = write_duplicates("set.npz", images, near_duplicates(images.images), tmp_path)
    assert [path.name for path in written] == [
        "duplicates.json",
        "duplicates.csv",
        "duplicates.png",
        "duplicates.html",
    ]
    assert Image.open(tmp_path / "duplicates.png").format == "PNG"
    few = images.take([0, 1, 2], "three")
    assert len(write_duplicates("set.npz", few, near_duplicates(few.images), tmp_path)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "duplicates.csv",
        "duplicates.html",
        "duplicates.json",
    ]


def test_a_distance_that_was_not_measured_is_null_and_a_question_mark(tmp_path):
    images = image_set()
    groups = replace(near_duplicates(images.images), widest=np.array([math.nan, 0.0]))
    write_duplicates("set.npz", images, groups, tmp_path)
    assert json.loads((tmp_path / "duplicates.json").read_text())["groups"][0]["widest"] is None
    assert duplicates_gallery("set.npz", images, groups)[1][0].heading == "3 images, 1.00 to ? apart"


def test_the_terminal_tells_counts_labels_and_names_as_they_are():
    words = told(image_set())
    for part in (
        "set.npz images 6 radius 1 grey level RMS groups 2 images in groups 5 (83.33%)",
        "to remove 3 (50.00%): all but the first of each group labels differ in 1 group",
        "3 1.00 to 2.00 cat a, d, f",
        '2 0.00 dog, cat b, "c", e',
    ):
        assert part in words
    everything = told(image_set(), 255)
    assert "6 0.00 to" in everything
    assert "[red]d[/red] and 3 more" in everything
    assert "Largest groups" not in told(image_set().take([0, 1], "two"))


def test_the_gallery_shows_the_largest_groups_and_how_many_images_are_left_out():
    images = image_set().take([0] * 7 + [1] * 2, "copies")
    title, shown, caption = duplicates_gallery("a/set.npz", images, near_duplicates(images.images, 0))
    assert title == "set.npz: 2 groups within 0 grey levels RMS"
    assert [(group.heading, group.more, group.warning) for group in shown] == [
        ("7 images, exact copies", 2, ""),
        ("2 images, exact copies", 0, ""),
    ]
    assert shown[1].words == ["no. 7\ndog", "no. 8\ndog"]
    assert "all of them" in caption
    warned = duplicates_gallery("set.npz", image_set(), near_duplicates(image_set().images))[1]
    assert [group.warning for group in warned] == ["", "labels differ"]


def test_many_groups_are_cut_and_the_caption_says_so():
    pixels = np.repeat(np.arange(0, 250, 5, dtype=np.uint8), 2)[:, None, None, None]
    images = ImageSet(pixels, None, tuple(map(str, range(100))))
    _, shown, caption = duplicates_gallery("set.npz", images, near_duplicates(images.images, 0))
    assert len(shown) == 24
    assert "the 24 largest" in caption


def shown(count, shape=(1, 4, 4), **options):
    return ShownGroup("heading $x$", np.zeros((count, *shape), np.uint8), ["no. 1\ncat"] * count, **options)


@pytest.mark.parametrize("counts", [[2], [5, 5, 5], [10, 2, 3], [2] * 24])
def test_no_picture_is_lost_and_none_covers_another(counts):
    figure = duplicates_figure("title", [shown(count) for count in counts], "caption")
    extents = [image.get_extent() for image in figure.axes[0].images]
    assert len(extents) == sum(counts)
    left, right = figure.axes[0].get_xlim()
    bottom, top = figure.axes[0].get_ylim()
    for one, (x0, x1, y1, y0) in enumerate(extents):
        assert left <= x0 < x1 <= right
        assert top <= y0 < y1 <= bottom
        for a0, a1, b1, b0 in extents[:one]:
            assert x0 >= a1 or a0 >= x1 or y0 >= b1 or b0 >= y1


def test_words_of_a_group_are_drawn_as_they_are():
    figure = duplicates_figure("one $title$", [shown(2, warning="labels differ", more=1234)], "caption")
    words = [text.get_text() for text in figure.axes[0].texts]
    assert "labels differ" in words
    assert "+1,234" in words
    assert len(figure.axes[0].images) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: duplicates_figure("title", [], "caption"),
        lambda: duplicates_figure("title", [shown(2), shown(2, (1, 4, 5))], "caption"),
        lambda: shown(0),
        lambda: shown(11),
        lambda: shown(2, (2, 4, 4)),
        lambda: ShownGroup("heading", np.zeros((2, 1, 4, 4)), ["a", "b"]),
        lambda: ShownGroup("heading", np.zeros((2, 1, 4, 4), np.uint8), ["a"]),
    ],
)
def test_what_cannot_be_drawn_is_refused(make):
    with pytest.raises(UserError):
        make()
