"""What is fuzzed of the readers of checkpoints: one of every layout, as small as its network may be; see `fuzz_harness`.

The damage is done to the pickle that describes a file's tensors, whose numbers lie behind it unharmed, and to what it holds.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import lucidrains_tools
import score_tools
import torch
from checkpoint_builders import flow_matching, guided_diffusion, pytorch_ddpm, torchcfm
from edm2_builder import ARGUMENTS, snapshot2, state_of
from edm_pickle_builder import saved, snapshot
from fuzz_harness import Harness
from fuzz_mutations import damaged, mutated, with_nests
from models_tools import random_state

from diffmem.models import open_model
from diffmem.models.networks.families import DhariwalUNet
from diffmem.models.networks.unet import UNetSettings
from diffmem.models.preconditioning import iddpm_levels

__all__ = ["CHECKPOINTS", "LAYOUTS", "Layout"]

_PICKLES_BEFORE_STORAGES = 5
_MOST_NUMBERS = 10**6


class Layout(NamedTuple):
    """One layout of checkpoints.

    Attributes:
        tree: What a file holds, nested dictionaries.
        name: Of the file.
        settings: What it does not tell.
        shape: (C, H, W) of the images; none where the file tells it.
        beside: Other files, by name, with their text.
        made: Makes what is pickled out of the tree.
    """

    tree: dict[Any, Any]
    name: str
    settings: Mapping[str, Any] | None = None
    shape: tuple[int, int, int] | None = (3, 8, 8)
    beside: Mapping[str, str] = {}
    made: Callable[[dict[Any, Any]], Any] = dict

    def open(self, path: Path) -> object:
        """Open a file as its user would."""
        return open_model(path, self.shape, self.settings, device="cpu")

    def place(self, content: bytes, folder: Path) -> Path:
        """Write a file and those beside it."""
        for name, text in self.beside.items():
            (folder / name).write_text(text)
        (folder / self.name).write_bytes(content)
        return folder / self.name

    def mutant(self, random: Random) -> bytes:
        """Return a file of the layout, new or old as `torch.save` writes it, damaged in its pickle or in what that holds."""
        old = random.random() < 0.5
        if random.random() < 0.4:
            parts = self.parts(old)
            return parts.joined(damaged(random, parts.pickle))
        while True:
            try:
                content = saved(self.made(mutated(random, self.tree)), not old)
            except Exception:  # the mutant cannot be written
                continue
            parts = _Parts.of(content)
            return parts.joined(with_nests(parts.pickle))

    def parts(self, old: bool) -> _Parts:
        """Return a good file in parts."""
        key = (self.name, old)
        if key not in _GOOD:
            _GOOD[key] = _Parts.of(saved(self.made(self.tree), not old))
        return _GOOD[key]


class _Parts(NamedTuple):
    """A file of `torch.save` as its pickle, or pickles, and the numbers behind: members of a zip, or bytes."""

    pickle: bytes
    numbers: dict[str, bytes] | bytes

    @classmethod
    def of(cls, content: bytes) -> _Parts:
        if not content.startswith(b"PK"):
            stream = io.BytesIO(content)
            for _ in range(_PICKLES_BEFORE_STORAGES):
                for _ in pickletools.genops(stream):
                    pass
            return cls(content[: stream.tell()], content[stream.tell() :])
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        return cls(members.pop(next(name for name in members if name.endswith("/data.pkl"))), members)

    def joined(self, pickle: bytes) -> bytes:
        """Return the file with another pickle."""
        if isinstance(self.numbers, bytes):
            return pickle + self.numbers
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in self.numbers.items():
                archive.writestr(name, content)
            root = next(iter(self.numbers)).partition("/")[0]
            archive.writestr(f"{root}/data.pkl", pickle)
        return stream.getvalue()


_GOOD: dict[tuple[str, bool], _Parts] = {}
_SMALL = {"attention": False}
_GUIDED = {
    "noise_schedule": "linear", "diffusion_steps": 1000, "predict_xstart": False, "rescale_timesteps": False, "num_heads": 2,
    "use_new_attention_order": True,
}  # fmt: skip
_EDM2 = ARGUMENTS | {"channel_mult": [1], "img_resolution": 4, "attn_resolutions": [], "channels_per_head": 4}
_IDDPM = {
    "class_name": "iDDPMPrecond", "model_type": "DhariwalUNet", "model_channels": 16, "img_resolution": 4, "img_channels": 3,
    "label_dim": 0, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "M": 20,
}  # fmt: skip


def _snapshot(make: Callable[..., Any]) -> Callable[[dict[Any, Any]], Any]:
    """Return how what is pickled is made of tensors and arguments; it copies tensors, so that they must not claim more than they have."""

    def made(tree: dict[Any, Any]) -> Any:
        if any(
            isinstance(one, torch.Tensor) and one.numel() > _MOST_NUMBERS for one in tree["state"].values()
        ):
            raise ValueError("not to be copied")
        return make(tree["state"], tree["arguments"])

    return made


def _iddpm_state() -> dict[str, torch.Tensor]:
    network = UNetSettings(
        resolution=4, image_channels=3, num_labels=0, base_width=16, multipliers=(1,), blocks=1, attention=(), dropout=0.0
    )  # fmt: skip
    state = random_state(DhariwalUNet(network, with_variance=True))
    return {**{f"model.{name}": one for name, one in state.items()}, "u": iddpm_levels(20).float()}


def _lucidrains() -> dict[str, Any]:
    """A checkpoint of one level, of whose raw weights only a sign is kept."""
    full = lucidrains_tools.AttentionShape(linear=False, heads=2, head_width=3, memory=4)
    settings = lucidrains_tools.small(widths=(8, 8), attention=(full,), middle=full)
    made = lucidrains_tools.checkpoint(settings)
    made["ema"] = {name: one for name, one in made["ema"].items() if not name.startswith("online_model.")}
    kept = {*lucidrains_tools.constants(), "model.init_conv.weight"}
    return {**made, "model": {name: one for name, one in made["model"].items() if name in kept}}


def _networks_once(checkpoint: dict[str, Any]) -> dict[str, Any]:
    del checkpoint["net_model"]
    return checkpoint


_FLAT = torch.ones(4)
LAYOUTS: dict[str, Layout] = {
    "lucidrains": Layout(_lucidrains(), "model-1.pt"),
    "lucidrains-classes": Layout(lucidrains_tools.guided(), "model.pt"),
    "lucidrains-elucidated": Layout(lucidrains_tools.elucidated(), "elucidated.pt"),
    "pytorch-ddpm": Layout(
        _networks_once(pytorch_ddpm(steps=20)),
        "ckpt.pt",
        shape=None,
        beside={"flagfile.txt": "--T=20\n--beta_1=0.0001\n--beta_T=0.02\n"},
    ),
    "guided-diffusion": Layout(guided_diffusion(), "ema_0.9999_000010.pt", _GUIDED),
    "torchcfm": Layout(
        _networks_once(torchcfm(**_SMALL)), "icfm_cifar10_weights_step_10.pt", shape=(3, 32, 32)
    ),
    "flow-matching": Layout(
        flow_matching(arguments=Namespace(lr=1e-4, class_drop_prob=0.2), **_SMALL),
        "checkpoint.pth",
        {"num_heads": 1},
    ),
    "score-sde": Layout(
        score_tools.checkpoint(multipliers=(1,), attention=()),
        "checkpoint_1.pth",
        {
            "sde": "vpsde",
            "continuous": True,
            "centered": True,
            "beta_min": 0.1,
            "beta_max": 20.0,
            "fir": False,
        },
    ),
    "edm2": Layout(
        {"state": state_of(_EDM2), "arguments": _EDM2},
        "network-snapshot-0000000-0.050.pkl",
        shape=None,
        made=_snapshot(snapshot2),
    ),
    "edm-iddpm": Layout(
        {"state": _iddpm_state(), "arguments": _IDDPM},
        "network-snapshot-000000.pkl",
        shape=None,
        made=_snapshot(snapshot),
    ),
    "k-diffusion": Layout(
        {
            "config": {"model": {"type": "image_v1", "sigma_data": 0.5}},
            "model": {"inner_model.weight": _FLAT},
            "model_ema": {"inner_model.weight": _FLAT},
            "opt": {},
            "epoch": 1,
            "step": 2,
        },
        "model_00000001.pth",
    ),
}
"""By kind."""

_REFUSED = ("k-diffusion",)


def _harness(layout: Layout, old: bool) -> Harness:
    parts = layout.parts(old)
    return Harness(
        (parts.pickle,), lambda content, folder: layout.place(parts.joined(content), folder), layout.open
    )


CHECKPOINTS: dict[str, Harness] = {
    f"{kind}-{'old' if old else 'zip'}": _harness(layout, old)
    for kind, layout in LAYOUTS.items()
    for old in (False, True)
    if kind not in _REFUSED
}
"""Those that open, damaged by their bytes alone."""
