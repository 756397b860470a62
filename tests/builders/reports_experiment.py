"""Synthetic experiments, one per form, with the paper's plotted points beside."""

from __future__ import annotations

from reports_study import make_grid, make_grid_level, make_run

from diffmem.paper.experiment import load_experiment
from diffmem.paper.records import ClaimRecord, ExperimentLevel, ExperimentResult, PublishedCurve
from diffmem.paper.reproduce import plan
from diffmem.studies.records import EmmRecord

DIMENSION = {
    "32x32": {500: 99.2, 1000: 92.1, 2000: 61.0, 4000: 17.1},
    "16x16": {1000: 100.0, 2000: 99.8, 4000: 94.7, 8000: 60.2, 16000: 11},
    "8x8": {1000: 100.0, 2000: 99.8, 4000: 97.1, 8000: 89.4, 16000: 63.9},
}
LABELS = {
    "unconditional": {1000: 92.1, 2000: 61.0, 3000: 34.7, 4000: 17.2, 5000: 9.0},
    "true labels": {1000: 96.7, 2000: 79.4, 3000: 55.6, 4000: 37.6, 5000: 23.0},
    "random labels": {1000: 96.3, 2000: 79.9, 3000: 57.3, 4000: 39.1, 5000: 23.5},
}
CLASSES = {
    1: {1000: 90.9, 2000: 61.2, 5000: 8.8},
    2: {1000: 92.9, 2000: 64.6, 5000: None},
    5: {1000: 95.2, 2000: 73.1, 5000: None},
    10: {1000: 96.2, 2000: 79.8, 5000: 23.4},
    20: {1000: 97.4, 2000: 84.8, 5000: None},
    50: {1000: 98.3, 2000: 90.2, 5000: 49.6},
    100: {1000: 99.1, 2000: 93.9, 5000: 62.6},
    500: {1000: None, 2000: None, 5000: 87.8},
    1000: {1000: None, 2000: None, 5000: 92.7},
}
UNIQUE = {
    1250: 0.7, 1500: 1.2, 2000: 4.6, 2500: 9.6, 3000: 15.9, 3500: 22.9, 4000: 28.8, 5000: 38.1, 6000: 44.7,
    7000: 50.3, 8000: 54.3, 9000: 58.2, 10000: 61.0, 11000: 63.4, 11500: 65.0, 11900: 65.5, 12000: 64.5,
}  # fmt: skip
SINGLE = {1: 92.7, 2: 92.9, 3: 91.8, 4: 78.2, 5: 80.7, 6: 61.2, 7: 12.8, 8: 2.8, 9: 0.0}
KEPT_THREE = {1: 86.7, 4: 53.4, 7: 5.7}


def mask(*kept, length=9):
    return ",".join("1" if index in kept else "0" for index in range(1, length + 1))


def make_level(name, paper_name=None, *, sizes=(32, 64, 128, 256), seeds=(0,), middle=90, emm=None, **fields):
    runs = [make_run(size, seed, middle=middle * (1 + 0.09 * seed)) for size in sizes for seed in seeds]
    emm = emm or EmmRecord(
        status="estimated", value=0.52 * middle, low=0.47 * middle, high=0.58 * middle, bracket=(32, 64)
    )
    return make_grid_level(
        name, runs=runs, kind=ExperimentLevel, emm=emm, paper_name=paper_name or name, **fields
    )


def make_curve(level, points):
    return PublishedCurve(level=level, x=list(points), percent=list(points.values()))


def make_experiment(name, form, levels, published, **fields):
    values = {
        "title": f"{name}: memorization by {fields.get('factor', 'level')}",
        "factor": "resolution",
        "scale": "cpu",
        "finding": "The lower the resolution, the more training images a model memorizes.",
        "claims": [
            ClaimRecord(
                claim="lower resolution, more memorization",
                verdict="shown",
                numbers="8x8 above 16x16 at 4 of 4 sizes, by 31.2 points (95% interval 28.0 to 34.4)",
            ),
            ClaimRecord(
                claim="EMM falls by a factor of about eight",
                verdict="cannot tell",
                numbers="the intervals of the two EMMs overlap",
            ),
        ],
        "notes": ["The digits of scikit-learn stand in for CIFAR-10."],
        "seconds": 5400.0,
    }
    more = {"kind": ExperimentResult, "name": name, "form": form, "published": published}
    return make_grid(*levels, **{**values, **fields, **more})


def by_size(**fields):
    levels = [
        make_level("8x8", "32x32", middle=70, **fields),
        make_level("6x6", "16x16", middle=120, **fields),
        make_level("4x4", "8x8", middle=230, **fields),
    ]
    published = [make_curve(level, points) for level, points in DIMENSION.items()]
    return make_experiment("fig2_dim", "size", levels, published, size_ratio=15.6)


def by_labels():
    levels = [
        make_level(name, seeds=(0, 1, 2), middle=middle)
        for name, middle in zip(LABELS, (70, 100, 104), strict=True)
    ]
    published = [make_curve(level, points) for level, points in LABELS.items()]
    return make_experiment("fig5_labels", "size", levels, published, size_ratio=15.6, factor="labels")


def by_classes(seeds=(0,)):
    levels = [
        make_level(str(count), sizes=(64, 128), seeds=seeds, middle=60 + 12 * index)
        for index, count in enumerate((1, 2, 5, 10, 20, 50, 100))
    ]
    published = [make_curve(str(count), points) for count, points in CLASSES.items()]
    return make_experiment(
        "fig5_classes", "level", levels, published, size_ratio=15.6, factor="number of random classes C"
    )


def by_weight_decay():
    names = ["0", "1e-5", "1e-4", "1e-3", "1e-2", "2e-2", "5e-2", "8e-2", "1e-1"]
    levels = [
        make_level(name, sizes=(64, 128), seeds=(0, 1), middle=95 - 9 * index)
        for index, name in enumerate(names)
    ]
    published = [make_curve("0", {1000: 92.1, 2000: 61.0})]
    return make_experiment(
        "table2", "level", levels, published, size_ratio=15.6, factor="weight decay",
        finding="Large weight decay lowers memorization much; small weight decay hardly matters.",
    )  # fmt: skip


def by_embedding():
    names = ("positional, 2 blocks", "Fourier, 2 blocks", "positional, 4 blocks", "Fourier, 4 blocks")
    levels = [
        make_level(name, sizes=(64, 128), seeds=(0, 1), middle=60 + 15 * index)
        for index, name in enumerate(names)
    ]
    published = [
        make_curve("positional, 2 blocks", {1000: 92.1, 2000: 61.0}),
        make_curve("Fourier, 2 blocks", {1000: None, 2000: None}),
    ]
    return make_experiment(
        "fig3_embedding", "level", levels, published, size_ratio=15.6, factor="time embedding"
    )


def by_epochs(seeds=(0,)):
    levels = [
        make_level("unconditional", sizes=(256,), seeds=seeds, middle=30),
        make_level("unique labels", sizes=(256,), seeds=seeds, middle=300),
    ]
    published = [
        make_curve("unique labels", UNIQUE),
        make_curve("unconditional", dict.fromkeys(range(1000, 13000, 1000), 0.0)),
    ]
    return make_experiment(
        "fig5_unique", "epochs", levels, published, factor="labels", size_ratio=195.3, epoch_ratio=3.0
    )


def by_epochs_unknown():
    levels = [make_level("4,000 epochs", sizes=(16, 32, 64, 96, 128, 256, 512, 1024), middle=90)]
    published = [PublishedCurve(level="4,000 epochs", x=[], percent=[])]
    return make_experiment(
        "fig1_c", "epochs", levels, published, factor="training-set size",
        finding="With a budget of 4,000 epochs, memorization is low for large training sets and grows with"
        " training on small ones.",
    )  # fmt: skip


def by_single_mask():
    levels = [
        make_level(mask(index), sizes=(64,), middle=80 - 7 * index, emm=EmmRecord(status="below smallest"))
        for index in range(1, 10)
    ]
    published = [make_curve(mask(index), {1000: percent}) for index, percent in SINGLE.items()]
    return make_experiment(
        "fig4_single", "masks", levels, published, size_ratio=15.6, factor="skip connections"
    )


def resolution_masks():
    masks = [mask(*range(1, 10))]
    for first in (1, 4, 7):
        a, b, c = first, first + 1, first + 2
        masks += [mask(a, b, c), mask(a, b), mask(a, c), mask(b, c), mask(a), mask(b), mask(c)]
    return masks


def by_mask_resolution():
    levels = [
        make_level(
            one, sizes=(64,), seeds=(0, 1), middle=80 - 2.4 * index, emm=EmmRecord(status="below smallest")
        )
        for index, one in enumerate(resolution_masks())
    ]
    known = {mask(index): percent for index, percent in SINGLE.items()}
    known |= {mask(first, first + 1, first + 2): percent for first, percent in KEPT_THREE.items()}
    known[mask(*range(1, 10))] = 92.1
    published = [make_curve(one, {1000: known.get(one)}) for one in resolution_masks()]
    return make_experiment(
        "fig4_resolution", "masks", levels, published, size_ratio=15.6, factor="skip connections"
    )


def optimum():
    above, below = EmmRecord(status="above largest"), EmmRecord(status="below smallest")
    levels = [
        make_level("closed-form optimum", sizes=(1000,), middle=1e6, emm=above),
        make_level("trained model", sizes=(1000,), middle=100, emm=below),
    ]
    published = [
        make_curve("closed-form optimum", {50000: 100.0}),
        make_curve("trained model", {50000: None}),
    ]
    return make_experiment("fig1_ab", "level", levels, published, size_ratio=50.0, factor="model")


def many_levels():
    levels = [make_level(f"level {index}", middle=20 + 12 * index) for index in range(22)]
    published = [make_curve(f"level {index}", {1000: 90.0 - 3 * index, 2000: 60.0}) for index in range(20)]
    return make_experiment("many", "size", levels, published, size_ratio=15.6)


def of_catalogue(name, scale, folder):
    """An experiment of the paper as it would be reported, with runs that are made up."""
    experiment = load_experiment(name)
    planned = plan(experiment, scale, folder, all_levels=True)
    levels = [
        make_level(
            one.name,
            one.paper_name,
            sizes=tuple(one.recipe.sizes),
            seeds=tuple(one.recipe.seeds),
            middle=60 + 9 * index,
        )
        for index, one in enumerate(planned.levels)
    ]
    published = [make_curve(level, points) for level, points in experiment.published.items()]
    return make_experiment(
        name, experiment.form, levels, published, title=experiment.title, factor=experiment.factor,
        finding=experiment.finding, scale=scale, size_ratio=planned.scale.size_ratio,
        epoch_ratio=planned.scale.epoch_ratio, notes=list(planned.notes),
    )  # fmt: skip


EXPERIMENTS = {
    "optimum": optimum,
    "by_size": by_size,
    "by_labels": by_labels,
    "by_classes": by_classes,
    "by_weight_decay": by_weight_decay,
    "by_embedding": by_embedding,
    "by_epochs": by_epochs,
    "by_epochs_of_seeds": lambda: by_epochs(seeds=(0, 1, 2)),
    "by_epochs_unknown": by_epochs_unknown,
    "by_single_mask": by_single_mask,
    "by_mask_resolution": by_mask_resolution,
    "many_levels": many_levels,
}
