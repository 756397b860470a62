"""DDPM++ and NCSN++ in the layout of score_sde_pytorch (Song et al. 2021), as EDM's `SongUNet`, which re-made them.

There, layers are numbered in the order in which they were made (`module.all_modules.N`), and maps to queries, keys and values are three.
The order is that of `SongUNet`'s own modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffmem.errors import UserError
from diffmem.models.networks.families import SongSettings, SongUNet
from diffmem.models.networks.layers import Conv, Init
from diffmem.models.networks.shaped import ShapedNetwork
from diffmem.models.networks.unet import UNetBlock
from diffmem.models.weights import check_numbers, check_tensors

__all__ = ["LAYERS", "ScoreLayout", "ScoreUNet"]

LAYERS = "module.all_modules"
"""What the names of the layers begin with."""

_FIR = (1.0, 3.0, 3.0, 1.0)
_BOX = (1.0, 1.0)
_SUPPORTED = (
    "Supported are networks with conditional, resblock_type 'biggan', progressive 'none' or 'output_skip', progressive_combine 'sum', and"
    " progressive_input 'none', 'input_skip', or 'residual' with fir."
)
_BLOCK = {
    "GroupNorm_0": "norm0",
    "Conv_0": "conv0",
    "Dense_0": "affine",
    "GroupNorm_1": "norm1",
    "Conv_1": "conv1",
    "Conv_2": "skip",
}


def _kind(parts: Mapping[str, Tensor]) -> str:
    """Return what a numbered layer is, by the names of its tensors."""
    layers = {name.partition(".")[0] for name in parts}
    if layers == {"weight", "bias"}:
        return {1: "norm", 2: "linear", 4: "conv"}.get(parts["weight"].ndim, "unknown")
    if layers - {"Conv_2"} == set(_BLOCK) - {"Conv_2"}:
        return "block"
    if layers == {"Conv_0"} and parts.get("Conv_0.weight", torch.empty(0)).shape[2:] == (1, 1):
        return "combination"
    known = {"W": "frequencies", "Conv2d_0": "pyramid", "GroupNorm_0 NIN_0 NIN_1 NIN_2 NIN_3": "attention"}
    return known.get(" ".join(sorted(layers)), "unknown")


def _size(parts: Mapping[str, Tensor], name: str, axis: int) -> int:
    tensor = parts.get(name)
    if tensor is None or tensor.ndim <= axis or not tensor.shape[axis]:
        raise UserError(f"A layer of {LAYERS} lacks a tensor {name!r} of the right shape.")
    return tensor.shape[axis]


@dataclass(frozen=True)
class ScoreLayout:
    """What the tensors of a network of score_sde_pytorch tell.

    Attributes:
        channels: Of the images.
        width: Channels of the first convolution.
        multipliers: Width of each level in its units.
        blocks: Residual blocks at each level.
        attention: Levels with attention, 0 the finest.
        fourier: Whether time is embedded by random frequencies, or by sinusoids.
        encoder: 'standard', 'skip' or 'residual', as of `SongSettings`.
        decoder: 'standard' or 'skip'.
    """

    channels: int
    width: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    fourier: bool
    encoder: str
    decoder: str

    @property
    def scale(self) -> int:
        """What the sides of images must be a multiple of."""
        return 1 << (len(self.multipliers) - 1)

    @property
    def fir(self) -> bool | None:
        """Whether the resolution is changed by FIR filters; none where no tensor tells and it matters."""
        return True if self.encoder == "residual" else None if len(self.multipliers) > 1 else False

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> ScoreLayout:
        """Read it.

        Args:
            tensors: By their names, of which those of `LAYERS` count.

        Raises:
            UserError: They are of a network that is not supported, or are not whole.
        """
        layers = _numbered(tensors)
        kinds = [_kind(parts) for parts in layers]
        fourier = kinds[:1] == ["frequencies"]
        start = int(fourier)
        if kinds[start : start + 3] != ["linear", "linear", "conv"]:
            raise UserError(f"Its layers do not begin with two linear maps and a convolution. {_SUPPORTED}")
        width, channels = (_size(layers[start + 2], "weight", axis) for axis in (0, 1))
        if width % 2:
            raise UserError(f"Its first convolution makes {width} channels; their number must be even.")
        places = [i for i, kind in enumerate(kinds) if kind == "block"]
        # In the way down, a block without another width has a convolution in its skip only if it halves the sides.
        halving = [
            _size(layers[i], "Conv_0.weight", 0) == _size(layers[i], "Conv_0.weight", 1)
            and "Conv_2.weight" in layers[i]
            for i in places
        ]
        blocks = min(halving.index(True) if any(halving) else len(places), (len(places) - 3) // 2)
        levels, rest = divmod(len(places), 2 * blocks + 3) if blocks > 0 else (0, 1)
        if rest:
            raise UserError(f"Its {len(places)} blocks are not those of a whole network. {_SUPPORTED}")
        ends = [places[level * (blocks + 1) + blocks - 1] for level in range(levels)]
        widths = [_size(layers[end], "Conv_0.weight", 0) for end in ends]
        if any(each % width for each in widths):
            raise UserError(f"The channels of its levels {widths} are no multiples of the first, {width}.")
        encoder = "residual" if "pyramid" in kinds else "skip" if "combination" in kinds else "standard"
        return cls(
            channels,
            width,
            tuple(each // width for each in widths),
            blocks,
            tuple(level for level, end in enumerate(ends) if kinds[end + 1 : end + 2] == ["attention"]),
            fourier,
            encoder,
            "skip" if levels > 1 and kinds.count("norm") == levels else "standard",
        )


def _numbered(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the tensors of each numbered layer, by the rest of their names.

    Raises:
        UserError: A name has no number, or numbers are missing.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{LAYERS}."):
            number, _, rest = name[len(LAYERS) + 1 :].partition(".")
            found.setdefault(number, {})[rest] = tensor
    numbers = [str(number) for number in range(len(found))]
    if set(found) != set(numbers):
        raise UserError(f"The {len(found)} layers {LAYERS}.N are not numbered from 0 on without gaps.")
    return [found[number] for number in numbers]


class ScoreUNet(ShapedNetwork):
    """F(x_t, t, labels) of score_sde_pytorch, before a division by sigma.

    x_t is float32 (B, C, H, W), t (B,); labels are ignored.

    Args:
        tensors: Those of `ScoreLayout.of`; taken as float32, each exactly once.
        layout: Of them.
        side: Of the images.
        fir: Whether the resolution is changed by FIR filters (1, 3, 3, 1), or by 2 x 2 means and repetition.
        centered: Whether images are in [-1, 1]; others are scaled to it by the network.
        rescale: Whether sums of two paths are divided by sqrt(2).

    Raises:
        UserError: The tensors are not exactly those of that network.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        layout: ScoreLayout,
        side: int,
        *,
        fir: bool,
        centered: bool,
        rescale: bool = True,
    ) -> None:
        super().__init__()
        taps = _FIR if fir else _BOX
        settings = SongSettings(
            resolution=side,
            image_channels=layout.channels,
            base_width=layout.width,
            multipliers=layout.multipliers,
            blocks=layout.blocks,
            attention=tuple(side >> level for level in layout.attention),
            dropout=0.0,
            embedding="fourier" if layout.fourier else "positional",
            noise_multiplier=2 if layout.fourier else 1,
            encoder=layout.encoder,
            decoder=layout.decoder,
            taps=taps,
            rescale=rescale,
        )
        with torch.device("meta"):
            unet = SongUNet(settings)
        held = {name: one for name, one in tensors.items() if name.startswith(f"{LAYERS}.")}
        _check(held, unet)
        made = _renamed(held, unet)
        filters = Conv(1, 1, 0, Init(), resample="down", taps=taps).state_dict()["resample_filter"]
        made |= {name: filters for name in unet.state_dict() if name.endswith("resample_filter")}
        unet.load_state_dict(made, assign=True)
        self.unet, self.channels, self.scale = unet, layout.channels, layout.scale
        self.fourier, self.centered = layout.fourier, centered
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the network's output, (B, C, H, W)."""
        shown = x if self.centered else 2 * x - 1
        return self.unet(shown, t.log() if self.fourier else t, None)  # type: ignore[no-any-return]


def _modules(unet: SongUNet) -> Iterator[tuple[str, str]]:
    """Yield the names of the modules that have numbers in the files, in the order of these, with their kinds."""
    if unet.settings.embedding == "fourier":
        yield "map_noise", "frequencies"
    yield from (("map_layer0", "linear"), ("map_layer1", "linear"))
    for part in ("enc", "dec"):
        modules: nn.ModuleDict = getattr(unet, part)
        for name, module in modules.items():
            if isinstance(module, UNetBlock):
                yield f"{part}.{name}", "block"
                if module.heads:
                    yield f"{part}.{name}", "attention"
            elif name.endswith("aux_residual"):
                yield f"{part}.{name}", "pyramid"
            elif name.endswith("aux_skip"):
                yield f"{part}.{name}", "combination"
            elif not isinstance(module, Conv):
                yield f"{part}.{name}", "norm"
            elif module.kernel:
                yield f"{part}.{name}", "conv"


def _sources(unet: SongUNet) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the names of a network's tensors, each with the names of those in a file that it is made of."""
    own = unet.state_dict()
    for number, (module, kind) in enumerate(_modules(unet)):
        at = f"{LAYERS}.{number}"
        if kind == "frequencies":
            yield f"{module}.freqs", (f"{at}.W",)
            continue
        for end, other in (("weight", "W"), ("bias", "b")):
            if kind == "block":
                pairs = [(f"{module}.{to}.{end}", f"{at}.{layer}.{end}") for layer, to in _BLOCK.items()]
                yield from ((to, (source,)) for to, source in pairs if to in own)
            elif kind == "attention":
                yield f"{module}.norm2.{end}", (f"{at}.GroupNorm_0.{end}",)
                yield f"{module}.qkv.{end}", tuple(f"{at}.NIN_{i}.{other}" for i in range(3))
                yield f"{module}.proj.{end}", (f"{at}.NIN_3.{other}",)
            else:
                layer = {"pyramid": ".Conv2d_0", "combination": ".Conv_0"}.get(kind, "")
                yield f"{module}.{end}", (f"{at}{layer}.{end}",)


def _check(tensors: Mapping[str, Tensor], unet: SongUNet) -> None:
    """Refuse tensors that are not exactly those of a network, before any memory is spent on it."""
    layers, wanted_kinds = _numbered(tensors), [kind for _, kind in _modules(unet)]
    for number, (parts, wanted) in enumerate(zip(layers, wanted_kinds, strict=False)):
        if (kind := _kind(parts)) != wanted:
            raise UserError(f"Layer {LAYERS}.{number} is of kind {kind!r}, not {wanted!r}. {_SUPPORTED}")
    own = unet.state_dict()
    wanted_tensors: dict[str, Tensor] = {}
    for name, sources in _sources(unet):
        one = own[name][:: len(sources)]
        if ".NIN_" in sources[0] and one.ndim == 4:
            one = one[:, :, 0, 0].T
        wanted_tensors |= dict.fromkeys(sources, one)
    check_tensors(tensors, wanted_tensors, f" {_SUPPORTED}")
    check_numbers(tensors)


def _renamed(tensors: Mapping[str, Tensor], unet: SongUNet) -> dict[str, Tensor]:
    """Return the tensors of a file, which are exactly those of a network, by its names and in its shapes; float32."""
    made: dict[str, Tensor] = {}
    for name, sources in _sources(unet):
        parts = [tensors[source].detach().float() for source in sources]
        if ".NIN_" in sources[0] and parts[0].ndim == 2:  # (in, out) there
            parts = [part.T[:, :, None, None] for part in parts]
        # Queries, keys and values alternate in the one map.
        made[name] = torch.stack(parts, dim=1).flatten(0, 1).contiguous()
    return made
