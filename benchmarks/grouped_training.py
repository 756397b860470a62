"""Images trained per second by several trainings in one process against separate processes.

    python benchmarks/grouped_training.py [--models quickstart cifar8] [--members 2 4 8] [--rounds 5] [--seconds 5]

Baseline: one single-threaded process per core, each training one network (`Trainer`), as the local executor works without groups.
Compared with it: one process, K parallel processes, `TrainerGroup`s of K networks in one single-threaded process per core or in one
process with all cores, and K networks under `torch.func.vmap` (`stack_module_state`, `functional_call`, gradients of each, fused
Adam over one vector, without EMA) in one single-threaded process per core.

Models: 'quickstart' (digits, batch 32) and 'cifar8', the CPU scale of the paper's experiments (8x8x3, batch 16). Pixels of
'cifar8' are random, since the time does not depend on them. `--check` trains groups and separate networks side by side and
prints the difference of their weights; `--profile` prints the time of one process by operation. For the measurement, also on a
busy machine, see `concurrent_runs.py`. `--draw CONCURRENT.json` draws the figure from both benchmarks' results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from concurrent_runs import Measured, cores, parser_of, ratio, serve, together

BAR = 1.5
MODELS = ("quickstart", "cifar8")


def _setup(name: str):
    """Return a model's configuration, images and training settings."""
    import numpy as np

    from diffmem.data import balanced, open_images
    from diffmem.models import ModelConfig
    from diffmem.studies.quickstart import quickstart_recipe
    from diffmem.training import EmaConfig, TrainingConfig

    if name == "quickstart":
        recipe = quickstart_recipe()
        return recipe.model, balanced(open_images("digits"), 160).images, recipe.training
    model = ModelConfig(
        preconditioning="edm", channels=16, multipliers=(1, 2), blocks=1, attention=(), dropout=0.0
    )
    training = TrainingConfig(
        epochs=600, batch_size=16, learning_rate=8e-3, warmup=20, p_mean=-0.8, p_std=0.9,
        ema=EmaConfig(mode="mode1", half_life=20),
    )  # fmt: skip
    return model, np.random.default_rng(0).integers(0, 256, (160, 3, 8, 8), dtype=np.uint8), training


def _members(name: str, count: int):
    from diffmem.models import build_denoiser
    from diffmem.training.trainer import Trainer

    model, images, training = _setup(name)
    return [
        Trainer(build_denoiser(model, images.shape[1:], seed=k), images, None, training, seed=k)
        for k in range(count)
    ]


def _stepper(kind: str, name: str, members: int) -> Callable[[], int]:
    """Return a function that trains one batch of each of the members and returns the number of images."""

    from diffmem.training.grouped import TrainerGroup

    made = _members(name, members)
    images = members * made[0].config.batch_size
    advance = {
        "separate": lambda: made[0].step,
        "grouped": lambda: TrainerGroup(made).step,
        "vmap": lambda: _vmapped(made),
    }[kind]()

    def step() -> int:
        advance()
        return images

    return step


def _vmapped(members: list[Any]) -> Callable[[], None]:
    """Return the step of stacked networks under `vmap`; like `Trainer.step` without schedules and average."""
    import torch
    from torch.func import functional_call, grad, stack_module_state, vmap

    from diffmem.training.trainer import denoising_loss

    first = members[0]
    network, config = first.denoiser, first.config
    preconditioning = network.preconditioning
    stacked, buffers = stack_module_state([member.denoiser for member in members])
    vector = torch.nn.Parameter(torch.cat([value.detach().flatten() for value in stacked.values()]))
    gradient = torch.zeros_like(vector)
    vector.grad = gradient
    pieces = vector.detach().split([value.numel() for value in stacked.values()])
    views = {
        key: piece.view(value.shape) for (key, value), piece in zip(stacked.items(), pieces, strict=True)
    }
    optimizer = torch.optim.Adam([vector], config.learning_rate, config.betas, fused=True)

    def loss(parameters, buffers, images, sigma, noise):
        def denoise(x, sigma, labels):
            return functional_call(network, (parameters, buffers), (x, sigma, labels))

        return denoising_loss(denoise, preconditioning, images, sigma, noise, None)

    gradients = vmap(grad(loss))
    seen = [0]

    def step() -> None:
        images, uniform, normal, noise = (
            torch.stack(parts)
            for parts in zip(*(member.draw(seen[0])[:4] for member in members), strict=True)
        )
        sigma = preconditioning.noise_levels(uniform, normal, config.p_mean, config.p_std)
        found = gradients(views, buffers, images, sigma, noise)
        torch.cat([found[key].flatten() for key in stacked], out=gradient)
        optimizer.step()
        seen[0] += config.batch_size

    return step


def check(name: str, count: int, steps: int) -> None:
    """Print how far a group is from separate trainings, and how far those are from others with one rounding more at the start."""
    from diffmem.training.grouped import TrainerGroup

    together, alone, nudged = (_members(name, count) for _ in range(3))
    for member in nudged:
        member.layout.vector.detach().mul_(1 + 2**-23)
    starts = [member.state()["weights"].clone() for member in together]
    group, done = TrainerGroup(together), 0
    while done < steps:
        target = max(1, 4 * done)
        for _ in range(min(target, steps) - done):
            group.step()
            for member in (*alone, *nudged):
                member.step()
        done = min(target, steps)
        group.settle()
        weights = [
            (a.state()["weights"], b.state()["weights"], c)
            for a, b, c in zip(together, alone, starts, strict=True)
        ]
        moved = min(float((b - c).norm() / b.norm()) for _, b, c in weights)
        apart = max(float((a - b).norm() / b.norm()) for a, b, _ in weights)
        of_output, of_nudged = (
            max(
                float((_output(a) - _output(b)).norm() / _output(b).norm())
                for a, b in zip(others, alone, strict=True)
            )
            for others in (together, nudged)
        )
        losses = [(a.take_loss(), b.take_loss()) for a, b in zip(together, alone, strict=True)]
        of_loss = max(abs(a - b) / b for a, b in losses)
        print(
            f"{name}, {count} members, {done} steps, relative: weights moved by {moved:.1e}, apart by {apart:.1e};"
            f" outputs apart by {of_output:.1e} (after a nudge {of_nudged:.1e}), losses by {of_loss:.1e}"
        )


def _output(member: Any):
    """Return what a member's network makes of its first batch with noise of 0.5."""
    import torch

    images, _, _, noise, _ = member.draw(0)
    with torch.no_grad():
        return member.denoiser(images + 0.5 * noise, 0.5)


def profile(name: str, count: int) -> None:
    """Print where the time of one step of one training and of a group goes, in milliseconds of a core for each member."""
    import torch

    kinds = {
        "convolutions, forward": ("aten::mkldnn_convolution",),
        "convolutions, backward": ("aten::convolution_backward",),
        "normalisations": ("aten::native_group_norm", "aten::native_group_norm_backward"),
        "activations": ("aten::silu", "aten::silu_backward"),
    }
    rows: dict[str, list[float]] = {}
    for kind, members in (("separate", 1), ("grouped", count)):
        step = _stepper(kind, name, members)
        for _ in range(10):
            step()
        parts: dict[str, float] = {}
        # The least of several: the profiler counts the time in which other programs have the core as well.
        for _ in range(8):
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
                for _ in range(5):
                    step()
            times = {one.key: one.self_cpu_time_total / 5000 / members for one in found.key_averages()}
            now = {words: sum(times.get(key, 0.0) for key in keys) for words, keys in kinds.items()}
            now["all else"] = sum(times.values()) - sum(now.values())
            parts = {words: min(value, parts.get(words, value)) for words, value in now.items()}
        for words, value in (parts | {"whole step": sum(parts.values())}).items():
            rows.setdefault(words, []).append(value)
    print(f"{name}: ms of a core for each member's step, alone and in a group of {count}")
    for words, (alone, grouped) in rows.items():
        print(f"  {words:24s} {alone:7.2f} {grouped:7.2f}  {alone / grouped:5.2f}x")


def _arrangements(members: list[int]) -> dict[str, tuple[str, int, int, int]]:
    """Return for each configuration the kind, members of a process, processes and threads; the baseline first."""
    count = cores()
    made = {
        f"{count} processes": ("separate", 1, count, 1),
        "1 process alone": ("separate", 1, 1, 1),
    }
    for k in members:
        if k > count:
            made[f"{k} processes at once"] = ("separate", 1, k, 1)
    for k in members:
        made[f"{count} processes, groups of {k}"] = ("grouped", k, count, 1)
    for k in members:
        made[f"1 process, group of {k}, {count} threads"] = ("grouped", k, 1, count)
    for k in members:
        made[f"{count} processes, vmap of {k}"] = ("vmap", k, count, 1)
    return made


def measure(name: str, args: argparse.Namespace) -> dict[str, list[Measured]]:
    """Run the rounds of one model and print the table."""
    arrangements = _arrangements(args.members)
    names = [one for one in arrangements if not any(words in one for words in args.skip)]
    rows: dict[str, list[Measured]] = {one: [] for one in names}
    for number in range(args.rounds):
        turn = number % len(names)
        for one in names[turn:] + names[:turn]:
            kind, members, processes, threads = arrangements[one]
            command = [sys.executable, __file__, "--child", kind, name, str(members), str(threads)]
            rows[one].append(
                together([[*command, "--seconds", str(args.seconds)]] * processes, threads, args)
            )
            last = rows[one][-1]
            others = "" if last.others is None else f", others took {last.others:.0%} of the cores"
            print(
                f"round {number + 1}, {name}: {one}: {last.rate:.0f} images/s, {last.per_core:.0f} per core-s{others}",
                flush=True,
            )
    print(f"\n{name}: ratios to '{names[0]}', median (range) of {args.rounds} rounds; required {BAR:g}")
    print(
        f"{'configuration':36s} {'images/s':>9s} {'ratio':>20s} {'per core-s':>10s} {'ratio':>6s}"
        f" {'memory MB':>10s} {'own MB':>7s} {'others':>7s}"
    )
    for one, found in rows.items():
        middle, low, high = ratio(found, rows[names[0]])
        per_core = statistics.median(
            a.per_core / b.per_core for a, b in zip(found, rows[names[0]], strict=True)
        )
        print(
            f"{one:36s} {statistics.median(x.rate for x in found):9.0f}"
            f" {f'{middle:.2f} ({low:.2f} to {high:.2f})':>20s}"
            f" {statistics.median(x.per_core for x in found):10.0f} {per_core:6.2f}"
            f" {max(x.memory for x in found):10.0f} {max(x.private for x in found):7.0f}"
            f" {max(x.others or 0.0 for x in found):7.0%}"
        )
    print()
    return rows


def draw(grouped: dict[str, Any], concurrent: dict[str, Any], path: Path) -> None:
    """Draw both benchmarks' ratios with their ranges."""
    from matplotlib import pyplot as plt

    def ratios(rows: dict[str, Any], name: str) -> tuple[float, float, float]:
        baseline = next(iter(rows.values()))
        found = [a["rate"] / b["rate"] for a, b in zip(rows[name], baseline, strict=True)]
        return statistics.median(found), min(found), max(found)

    def points(axes, places, values, **style):
        middle = [value[0] for value in values]
        spread = [[m - low for m, low, _ in values], [high - m for m, _, high in values]]
        axes.errorbar(places, middle, yerr=spread, capsize=3, ms=5, **style)

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
    rows = concurrent["cpu"]
    names = list(rows)
    points(left, range(len(names)), [ratios(rows, name) for name in names], fmt="o", color="#0072B2")
    left.set_xticks(range(len(names)), [name.replace(", ", "\n") for name in names], fontsize=8)
    left.set_xlim(-0.5, len(names) - 0.5)
    left.set_ylim(0, None)
    left.axhline(1, color="grey", lw=0.8, ls=":")
    left.set(
        ylabel=f"images/s against 1 process, {concurrent['cores']} threads",
        title="Quickstart-size runs at once (median, range)",
    )
    looks = {
        ("quickstart", "groups"): {"fmt": "o-", "color": "#0072B2"},
        ("cifar8", "groups"): {"fmt": "s-", "color": "#D55E00"},
        ("quickstart", "vmap"): {"fmt": "o--", "color": "#0072B2", "mfc": "white"},
        ("cifar8", "vmap"): {"fmt": "s--", "color": "#D55E00", "mfc": "white"},
    }
    words = {"quickstart": "quickstart, batch 32", "cifar8": "CIFAR-10 at 8x8, batch 16"}
    places: set[int] = set()
    for (model, kind), style in looks.items():
        names = [name for name in grouped[model] if f"processes, {kind} of" in name]
        sizes = [int(name.split()[-1]) for name in names]
        places.update(sizes)
        label = f"{'grouped' if kind == 'groups' else 'vmap'}, {words[model]}"
        points(right, sizes, [ratios(grouped[model], name) for name in names], label=label, **style)
    right.set_xscale("log", base=2)
    right.set_xticks(sorted(places), [str(size) for size in sorted(places)])
    right.minorticks_off()
    right.axhline(1, color="grey", lw=0.8, ls=":")
    right.axhline(BAR, color="grey", lw=0.8, ls="--")
    right.set_ylim(0, None)
    right.set(
        xlabel="networks in each process",
        ylabel="images/s against 1 network in each process",
        title="Several networks in a process (dashed line: bar)",
    )
    right.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, check, profile or draw."""
    parser = parser_of(__doc__ or "", seconds=5.0)
    parser.add_argument("--models", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--members", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--skip", nargs="+", default=[], help="leave out configurations with these words")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--draw", type=Path, metavar="CONCURRENT.json", help="results of concurrent_runs.py")
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/many_runs.png"))
    parser.add_argument(
        "--child", nargs=4, metavar=("KIND", "MODEL", "MEMBERS", "THREADS"), help=argparse.SUPPRESS
    )
    args = parser.parse_args()
    if args.child:
        import torch

        kind, name, members, threads = args.child
        torch.set_num_threads(int(threads))
        serve(_stepper(kind, name, int(members)), args.seconds)
        return
    if args.draw:
        draw(json.loads(args.results.read_text()), json.loads(args.draw.read_text()), args.picture)
        return
    if args.check or args.profile:
        import torch

        torch.set_num_threads(1)
        for name in args.models:
            if args.check:
                check(name, 3, 256)
            if args.profile:
                profile(name, 4)
        return
    results = {name: measure(name, args) for name in args.models}
    print(f"{cores()} cores")
    if args.results:
        content = {
            name: {one: [asdict(x) for x in found] for one, found in rows.items()}
            for name, rows in results.items()
        }
        args.results.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
