"""Error rates of audits, and how few copies they find: simulated audits of CIFAR-10, with random roles in each draw.

    python benchmarks/audit_simulation.py cifar-10-python.tar.gz tables/ --draws 2000 [--rows noise2-5 fresh ...] [--picture found.png]

The 60 nearest neighbours of all 60,000 images, of copies and of changed fresh images are searched once and kept in the
folder of tables (about a quarter of an hour on two cores). Every draw assigns 48,000 images as training images, 2,000 as
held-out images and 10,000 as samples, and audits them by the audit's own code; see tests/auditing/simulation.py for what is not
simulated. `docs/explanation/audit-criteria.md` holds the output.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

sys.path.append(str(Path(__file__).parents[1] / "tests" / "builders"))
from simulation import Draw, Table, Universe

from diffmem.auditing.positive_controls import make_controls
from diffmem.data import open_images
from diffmem.memorization import NeighbourIndex, Rate, nearest_neighbours

WIDTH = 61
COUNT = 30  # neighbours that the criteria look at: of the nearest 60 images some have other roles
TRAINING, HELDOUT, SAMPLES = 48_000, 2_000, 10_000
SOURCES, CHANGED = 3_000, 12_000


def noise(images, level, seed):
    """Return images with Gaussian noise."""
    made = images + np.random.default_rng(seed).normal(0, level, images.shape)
    return np.rint(made).clip(0, 255).astype(np.uint8)


def blur(images, level):
    """Return images blurred by a Gaussian."""
    made = gaussian_filter(images.astype(np.float64), (0, 0, level, level), mode="nearest")
    return np.rint(made).clip(0, 255).astype(np.uint8)


def contrast(images, part):
    """Return images with less contrast about their means."""
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return np.rint(mean + part * (images - mean)).clip(0, 255).astype(np.uint8)


PLANTED: dict[str, Callable] = {
    "noise2": lambda images: noise(images, 2, 1),
    "noise4": lambda images: noise(images, 4, 2),
    "noise8": lambda images: noise(images, 8, 3),
    "jpeg50": lambda images: make_controls(images, "jpeg50", 0, images),
    "blur0.7": lambda images: blur(images, 0.7),
}
FRESH: dict[str, Callable] = {
    "blurred by 0.5": lambda images: blur(images, 0.5),
    "blurred by 1": lambda images: blur(images, 1),
    "blurred by 3": lambda images: blur(images, 3),
    "contrast 0.3": lambda images: contrast(images, 0.3),
    "contrast 0.6": lambda images: contrast(images, 0.6),
}
COPIES = (
    ("noise2", 13),
    ("noise2", 5),
    ("noise4", 5),
    ("noise8", 13),
    ("jpeg50", 13),
    ("blur0.7", 13),
    ("noise2", 1),
    ("noise2", 2),
    (None, 0),
)
BOTH = "training and 2,000 held-out images"
HARDER = {
    "noise8": "noise of 8 grey levels",
    "jpeg50": "JPEG of quality 50",
    "blur0.7": "blurred by 0.7 pixels",
}


class Tables:
    """The tables of neighbours, searched once and kept in a folder."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.archive, self.folder = archive, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._images: np.ndarray | None = None
        self._index: NeighbourIndex | None = None
        rng = np.random.default_rng(0)
        self.sources = rng.choice(TRAINING + HELDOUT + SAMPLES, SOURCES, replace=False)
        self.changed = rng.choice(TRAINING + HELDOUT + SAMPLES, CHANGED, replace=False)

    @property
    def images(self) -> np.ndarray:
        """All images, those of the test set last."""
        if self._images is None:
            parts = [open_images(self.archive, split).images for split in ("train", "test")]
            self._images = np.ascontiguousarray(np.concatenate(parts))
        return self._images

    def of(self, name: str, make: Callable[[], np.ndarray], width: int = WIDTH) -> Table:
        """Return the table of images, from the folder or by a search."""
        path = self.folder / f"{name}.npz"
        if not path.exists():
            self._index = self._index or NeighbourIndex.build(self.images)
            asked = make()
            found = [
                nearest_neighbours(part, self.images, width, index=self._index)
                for part in np.array_split(asked, max(1, len(asked) // 5_000))
            ]
            np.savez(
                path,
                distances=np.concatenate([one.distances for one in found]).astype(np.float32),
                indices=np.concatenate([one.indices for one in found]).astype(np.int32),
            )
        with np.load(path) as held:
            return Table(held["distances"], held["indices"])

    def universe(self) -> Universe:
        """Return all images."""
        return Universe.from_table(self.of("all", lambda: self.images), (3, 32, 32))

    def planted(self, kind: str) -> Table:
        """Return copies of `sources`."""
        return self.of(f"planted {kind}", lambda: PLANTED[kind](self.images[self.sources]))

    def fresh(self, kind: str) -> Table:
        """Return `changed` images."""
        return self.of(f"fresh {kind}", lambda: FRESH[kind](self.images[self.changed]))


def roles(rng, count=TRAINING + HELDOUT + SAMPLES, training=TRAINING, heldout=HELDOUT):
    """Return training, held-out and other images of a permutation."""
    order = rng.permutation(count)
    return np.sort(order[:training]), order[training : training + heldout], order[training + heldout :]


def with_copies(draw, universe, samples, planted, sources, count, rng):
    """Return samples, the last ones in place of copies of training images."""
    kept = universe.table.take(samples[: len(samples) - count])
    if not count:
        return kept
    held = np.flatnonzero(np.isin(sources, draw.training))
    return Table.of([kept, planted.take(rng.choice(held, count, replace=False))])


def copies(tables: Tables, draws: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield (row, verdict): copies planted among 10,000 fresh samples."""
    universe = tables.universe()
    planted = {kind: tables.planted(kind) for kind in PLANTED}
    for at in range(draws):
        rng = np.random.default_rng([seed, at])
        training, heldout, samples = roles(rng)
        draw = Draw(universe, training, heldout, count=COUNT, rng=rng)
        for kind, count in COPIES:
            asked = with_copies(draw, universe, samples, planted.get(kind), tables.sources, count, rng)
            yield f"{count} copies, {kind}" if kind else "no copies", draw.audit(asked).verdict.verdict


def numbers(tables: Tables, draws: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield (row, verdict): 1 to 50 copies with noise of 2 grey levels, with three nulls; copies changed otherwise, with the first."""
    universe = tables.universe()
    planted = {kind: tables.planted(kind) for kind in ("noise2", *HARDER)}
    for at in range(draws):
        rng = np.random.default_rng([seed, at, 1])
        training, heldout, samples = roles(rng)
        nulls = {
            BOTH: Draw(universe, training, heldout, count=COUNT, rng=rng),
            "2,000 held-out images alone": Draw(
                universe, training, heldout, count=COUNT, deduplicated=True, rng=rng
            ),
            "training images alone": Draw(universe, training, heldout[:0], count=COUNT, rng=rng),
        }
        for name, draw in nulls.items():
            for count in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 30, 50):
                asked = with_copies(draw, universe, samples, planted["noise2"], tables.sources, count, rng)
                yield f"{name}|noise2|{count}", draw.audit(asked).verdict.verdict
        for kind in HARDER:
            for count in (3, 4, 5, 6, 8, 10, 13, 20, 30):
                asked = with_copies(nulls[BOTH], universe, samples, planted[kind], tables.sources, count, rng)
                yield f"{BOTH}|{kind}|{count}", nulls[BOTH].audit(asked).verdict.verdict


def changed(tables: Tables, draws: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield (row, verdict): fresh samples that are blurred or of low contrast."""
    universe, fresh = tables.universe(), {kind: tables.fresh(kind) for kind in FRESH}
    for at in range(draws):
        rng = np.random.default_rng([seed, at, 2])
        chosen = rng.choice(CHANGED, SAMPLES, replace=False)
        rest = np.setdiff1d(np.arange(len(universe)), tables.changed[chosen])
        rng.shuffle(rest)
        draw = Draw(universe, np.sort(rest[:TRAINING]), rest[TRAINING:], count=COUNT, rng=rng)
        for kind, table in fresh.items():
            asked = table.take(chosen).without(tables.changed[chosen], WIDTH - 1)
            yield f"fresh, {kind}", draw.audit(asked).verdict.verdict


def grouped(universe: Universe, size: int, rng) -> tuple[Universe, np.ndarray]:
    """Return a universe where 1% of the images lie in groups of near-copies, and the groups."""
    groups = rng.choice(len(universe), (len(universe) // 100 // size, size), replace=False)
    distances, indices = universe.table.distances.copy(), universe.table.indices.copy()
    width = distances.shape[1]
    for group in groups:
        gaps = rng.uniform(2, 6, (size, size)) * np.sqrt(np.prod(universe.shape))
        gaps = np.minimum(gaps, gaps.T)
        around = universe.table.take(group[:1])
        for at in range(size):
            others = np.delete(np.arange(size), at)
            others = others[np.argsort(gaps[at, others])]
            near = np.concatenate([gaps[at, others], np.maximum(around.distances[0], gaps[at].max())])
            distances[group[at]] = near[:width]
            indices[group[at]] = np.concatenate([group[others], around.indices[0]])[:width]
    return Universe(Table(distances, indices), universe.shape), groups


def groups(tables: Tables, draws: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield (row, verdict): natural near-copies in pairs and larger groups, roles drawn by image and by group, nothing copied."""
    plain = tables.universe()
    for at in range(draws):
        for size in (2, 10, 50):
            rng = np.random.default_rng([seed, at, 3, size])
            universe, held = grouped(plain, size, rng)
            training, heldout, samples = roles(rng)
            yield f"groups of {size}, by image", verdict(universe, training, heldout, samples, rng)
            single = rng.permutation(np.setdiff1d(np.arange(len(universe)), held))
            role = rng.choice(3, len(held), p=[0.8, 1 / 30, 1 / 6])
            parts, start = [], 0
            for which, number in enumerate((TRAINING, HELDOUT, SAMPLES)):
                whole = held[role == which].ravel()[:number]
                end = start + number - len(whole)
                parts.append(np.concatenate([whole, single[start:end]]))
                start = end
            yield f"groups of {size}, by group", verdict(universe, np.sort(parts[0]), parts[1], parts[2], rng)


def verdict(universe, training, heldout, samples, rng, **settings) -> str:
    """Return the verdict on fresh samples."""
    draw = Draw(universe, training, heldout, count=COUNT, rng=rng, **settings)
    return draw.audit(universe.table.take(samples)).verdict.verdict


def deduplicated(tables: Tables, draws: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield (row, verdict): a training set without near-copies, fresh images with some beside it; with and without saying so."""
    plain = tables.universe()
    for at in range(draws):
        for share in (0.0002, 0.0005, 0.001, 0.002):
            rng = np.random.default_rng([seed, at, 4])
            training, heldout, samples = roles(rng)
            distances, indices = plain.table.distances.copy(), plain.table.indices.copy()
            for one in np.concatenate([heldout, samples]):
                if rng.random() < share:
                    twin = rng.choice(training)
                    gap = rng.uniform(1, 5) * np.sqrt(3072)
                    near = np.maximum(plain.table.distances[twin], gap)
                    distances[one] = np.concatenate([[gap], near])[: WIDTH - 1]
                    indices[one] = np.concatenate([[twin], plain.table.indices[twin]])[: WIDTH - 1]
            universe = Universe(Table(distances, indices), plain.shape)
            for flag in (True, False):
                said = "said" if flag else "not said"
                found = verdict(universe, training, heldout, samples, rng, deduplicated=flag)
                yield f"de-duplicated ({said}), near-copies of {share:.2%} of fresh images", found


def small(tables: Tables, draws: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield (row, verdict): 1,000 training, 1,000 held-out images and 5,000 samples."""
    rng = np.random.default_rng(9)
    chosen = np.sort(rng.choice(len(tables.images), 7_000, replace=False))
    images = np.ascontiguousarray(tables.images[chosen])
    found = nearest_neighbours(images, images, 401)
    universe = Universe.from_table(Table(found.distances, found.indices), (3, 32, 32))
    made = nearest_neighbours(noise(images, 2, 1), images, 401)
    planted = Table(made.distances, made.indices)
    for at in range(draws):
        rng = np.random.default_rng([seed, at, 5])
        training, heldout, samples = roles(rng, 7_000, 1_000, 1_000)
        for flag in (False, True):
            draw = Draw(universe, training, heldout, count=COUNT, deduplicated=flag, rng=rng)
            said = ", --deduplicated" if flag else ""
            for count in (0, 1, 2, 15):
                asked = with_copies(draw, universe, samples, planted, np.arange(7_000), count, rng)
                yield f"small: {count} copies, noise2{said}", draw.audit(asked).verdict.verdict


ROWS = {
    "copies": copies,
    "changed": changed,
    "groups": groups,
    "deduplicated": deduplicated,
    "small": small,
    "numbers": numbers,
}


def simulate(tables: Tables, row: str, draws: int, seed: int = 0) -> dict[str, Counter]:
    """Return how often each verdict came out, by row."""
    counts: dict[str, Counter] = {}
    for name, found in ROWS[row](tables, draws, seed):
        counts.setdefault(name, Counter())[found] += 1
    return counts


def draw_picture(counts: dict[str, Counter], path: Path) -> None:
    """Draw the fraction of audits that find copies against their number, with 95% intervals: by the null, and by what was changed."""
    from diffmem.reports.style import COLOURS, dress, new_figure, percent_axis

    curves = by_curve(counts)
    nulls = [(name, curves[name, "noise2"]) for name in dict.fromkeys(null for null, _ in curves)]
    changes = [("noise of 2 grey levels", curves[BOTH, "noise2"])]
    changes += [(words, curves[BOTH, kind]) for kind, words in HARDER.items()]
    panels = (
        ("Copies with noise of 2 grey levels,\nby the null", nulls),
        (f"Null of {BOTH},\nby the change of the copies", changes),
    )
    figure = new_figure(9.6, 5.4)
    for axes, (title, lines) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        dress(axes, "Copies among 10,000 samples", "")
        axes.set_title(title, fontsize=11.5, loc="left")
        names = ("blue", "vermillion", "black", "green")
        styles = zip(names, ("o", "s", "^", "D"), ("-", "--", ":", "-."), strict=True)
        for at, ((label, points), (name, marker, dash)) in enumerate(zip(lines, styles, strict=False)):
            numbers_ = np.array(sorted(points))
            rates = [Rate(points[one]["copies found"], points[one].total()) for one in numbers_]
            middle = np.array([rate.value for rate in rates])
            spread = np.abs(
                [middle - [rate.low for rate in rates], np.array([rate.high for rate in rates]) - middle]
            )
            aside = 1.035 ** (at - (len(lines) - 1) / 2)  # curves that agree stand beside each other
            axes.errorbar(
                numbers_ * aside, 100 * middle, 100 * spread, color=COLOURS[name], marker=marker, linestyle=dash,
                markersize=6, linewidth=2, capsize=3, label=label,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks([1, 2, 3, 5, 10, 20, 50], ["1", "2", "3", "5", "10", "20", "50"])
        axes.minorticks_off()
        axes.set_xlim(0.9, 60)
        axes.tick_params(labelsize=11)
        axes.xaxis.label.set_fontsize(12)
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.17), frameon=False, fontsize=11, handlelength=3)
    left = figure.axes[0]
    percent_axis(left)
    left.set_ylabel("Audits that say 'copies found'", fontsize=12)
    figure.savefig(path, dpi=150)


def by_curve(counts: dict[str, Counter]) -> dict[tuple[str, str], dict[int, Counter]]:
    """Return the rows of `numbers` by null and change, and by number of copies."""
    found: dict[tuple[str, str], dict[int, Counter]] = {}
    for name, verdicts in counts.items():
        null, kind, number = name.split("|")
        found.setdefault((null, kind), {})[int(number)] = verdicts
    return found


def main() -> None:
    """Run rows and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path)
    parser.add_argument("tables", type=Path)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="of the row 'numbers'")
    parser.add_argument("--json", type=Path, help="where the counts are written")
    given = parser.parse_args()
    tables, everything = Tables(given.archive, given.tables), {}
    for row in given.rows:
        start = time.monotonic()
        counts = simulate(tables, row, given.draws, given.seed)
        everything |= counts
        for name, verdicts in counts.items():
            shares = ", ".join(
                f"{key} {100 * number / verdicts.total():.2f}%" for key, number in verdicts.most_common()
            )
            print(f"{name}: {shares} of {verdicts.total():,}")
        print(f"({row}: {time.monotonic() - start:.0f} s)", flush=True)
        if row == "numbers" and given.picture is not None:
            draw_picture(counts, given.picture)
    if given.json is not None:
        given.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
