"""The magnitude-preserving U-Net of EDM2, for evaluation.

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", config G. No layer has a bias; every layer keeps
the expected magnitude of what it is given. The network normalises each weight where it uses it. Here that is done once, when the tensors
of a file are prepared (`prepared`): the numbers are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmem.models.networks.shaped import ShapedNetwork

__all__ = ["EDM2Settings", "EDM2UNet", "prepared"]

_EPSILON = 1e-4
_SILU_MAGNITUDE = 0.596  # of SiLU(n), n standard normal
_OUT_GAIN = "out_gain"
_GAIN = "emb_gain"


@dataclass(frozen=True, kw_only=True)
class EDM2Settings:
    """What the network is built from.

    Attributes:
        resolution: Height and width of the images, divisible by 2 ** (levels - 1).
        image_channels: Channels of the images.
        num_labels: Number of classes, 0 for none.
        widths: Channels of each level, finest first.
        noise_width: Number of Fourier features of the noise level.
        embedding_width: Size of the embedding.
        blocks: Blocks at each resolution of the encoder; the decoder has one more.
        attention: Resolutions with self-attention.
        head_channels: Channels of each attention head; a block narrower than one has no attention.
        label_balance: Weight t of the label beside the noise level, 0 to 1; see `mixed`.
        concat_balance: Weight of the skip beside the decoder's own channels.
        residual_balance: Weight of the residual branch beside the main path.
        attention_balance: Weight of attention beside its input.
        clip: Largest absolute value that leaves a block; none for any.
    """

    resolution: int
    image_channels: int
    num_labels: int
    widths: tuple[int, ...]
    noise_width: int
    embedding_width: int
    blocks: int
    attention: tuple[int, ...]
    head_channels: int
    label_balance: float
    concat_balance: float
    residual_balance: float
    attention_balance: float
    clip: float | None


def _normalised(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Divide vectors by the root mean square of their entries, plus 1e-4."""
    sizes = [x.shape[d] for d in ((dim,) if isinstance(dim, int) else dim)]
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    unit: Tensor = x / (_EPSILON + norm * math.sqrt(1 / math.prod(sizes)))
    return unit


def _mixed(a: Tensor, b: Tensor, balance: float) -> Tensor:
    """((1 - t) a + t b) / sqrt((1 - t)^2 + t^2): eq. 88 of the paper."""
    return a.lerp(b, balance) / math.hypot(1 - balance, balance)


def _joined(a: Tensor, b: Tensor, balance: float) -> Tensor:
    """Concatenate channels, weighed so that both parts contribute by the balance whatever their widths: eq. 103 of the paper."""
    of_a, of_b = a.shape[1], b.shape[1]
    total = math.sqrt((of_a + of_b) / ((1 - balance) ** 2 + balance**2))
    return torch.cat(
        [a * (total * (1 - balance) / math.sqrt(of_a)), b * (total * balance / math.sqrt(of_b))], dim=1
    )


def _silu(x: Tensor) -> Tensor:
    return F.silu(x) / _SILU_MAGNITUDE


def prepared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file as `EDM2UNet` takes them: each weight w normalised, over sqrt(n) and times its gain; no gains.

    With n numbers in the part of w that makes one output, that is g / sqrt(n) w / (1e-4 + |w| / sqrt(n)) (eq. 47 and 66 of the paper).
    A gain g is divided by sqrt(n) **in the type that the file holds** and only then becomes float32. Files hold float16, in which the
    trainer's own code divides; taken as float32 first, D would differ by up to 2e-4.

    Args:
        tensors: By their names in the file, of any float type; gains have no dimensions.
    """
    made = {}
    for name, tensor in tensors.items():
        layer, _, last = name.rpartition(".")
        if last == "weight":
            weight = tensor.detach().float()
            size = math.sqrt(weight[0].numel())
            block, _, part = layer.rpartition(".")
            gain = {"emb_linear": f"{block}.{_GAIN}", "out_conv": _OUT_GAIN}.get(part)
            unit = _normalised(weight, tuple(range(1, weight.ndim)))
            made[name] = unit * ((1 if gain is None else tensors[gain].detach()) / size)
        elif last not in (_GAIN, _OUT_GAIN):
            made[name] = tensor.detach().float()
    return made


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, device="meta")


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False, device="meta")


class _Fourier(nn.Module):
    """sqrt(2) cos(c f + p) of random frequencies f and phases p."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("freqs", "phases"):
            self.register_buffer(name, torch.empty(width, device="meta"))

    def forward(self, noise: Tensor) -> Tensor:
        return (noise[:, None] * self.freqs + self.phases).cos() * math.sqrt(2)


class _Block(nn.Module):
    """A residual block, then attention.

    Args:
        inputs: Input channels, of a decoder's block with those of the skip.
        outputs: Output channels.
        settings: Of the network.
        encoder: Whether it is one of the encoder, which normalises each pixel.
        resample: 'none', 'up' (each pixel repeated) or 'down' (the mean of 2x2).
        attention: Whether its resolution has attention.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        settings: EDM2Settings,
        *,
        encoder: bool,
        resample: str = "none",
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.inputs, self._settings, self._encoder, self._resample = inputs, settings, encoder, resample
        self.conv_res0 = _conv(outputs if encoder else inputs, outputs, 3)
        self.emb_linear = _linear(settings.embedding_width, outputs)
        self.conv_res1 = _conv(outputs, outputs, 3)
        self.conv_skip = None if inputs == outputs else _conv(inputs, outputs, 1)
        self._heads = outputs // settings.head_channels if attention else 0
        if self._heads:
            self.attn_qkv = _conv(outputs, 3 * outputs, 1)
            self.attn_proj = _conv(outputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if self._resample == "down":
            x = F.avg_pool2d(x, 2)
        elif self._resample == "up":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        if self._encoder:
            x = _normalised(self._skip(x), 1)
        y = self.conv_res0(_silu(x))
        y = self.conv_res1(_silu(y * (self.emb_linear(embedding) + 1)[:, :, None, None]))
        x = _mixed(x if self._encoder else self._skip(x), y, self._settings.residual_balance)
        if self._heads:
            x = _mixed(x, self._attend(x), self._settings.attention_balance)
        reach = self._settings.clip
        return x if reach is None else x.clamp(-reach, reach)

    def _skip(self, x: Tensor) -> Tensor:
        return x if self.conv_skip is None else self.conv_skip(x)

    def _attend(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        # Channels of the map run as (head, channel of the head, query/key/value).
        mapped = self.attn_qkv(x).reshape(batch, self._heads, channels // self._heads, 3, height * width)
        q, k, v = _normalised(mapped, 2).permute(3, 0, 1, 4, 2)
        y = F.scaled_dot_product_attention(q, k, v)
        attended: Tensor = self.attn_proj(y.transpose(2, 3).reshape(x.shape))
        return attended


class EDM2UNet(ShapedNetwork):
    """F(x, c_noise, labels) of EDM2, to be filled with `prepared` tensors.

    Names of modules are those of the files, without `unet.`. Layers start on the meta device, without numbers.

    Attributes:
        channels: Of the images.
        scale: How many pixels the sides of images must be a multiple of.
        gains: Names of the gains that a file holds beside the tensors of this network.
    """

    def __init__(self, settings: EDM2Settings) -> None:
        super().__init__()
        self.settings = settings
        self.channels, self.scale = settings.image_channels, 2 ** (len(settings.widths) - 1)
        self.emb_fourier = _Fourier(settings.noise_width)
        self.emb_noise = _linear(settings.noise_width, settings.embedding_width)
        self.emb_label = (
            _linear(settings.num_labels, settings.embedding_width) if settings.num_labels else None
        )
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self._add_decoder(self._add_encoder())
        self.out_conv = _conv(settings.widths[0], settings.image_channels, 3)
        parts = (("enc", self.enc), ("dec", self.dec))
        self.gains = [
            f"{part}.{name}.{_GAIN}"
            for part, blocks in parts
            for name, block in blocks.items()
            if isinstance(block, _Block)
        ] + [_OUT_GAIN]

    def _add_encoder(self) -> list[int]:
        """Add the encoder's modules; return the channels of its outputs."""
        settings = self.settings
        skips: list[int] = []
        width = settings.widths[0]
        for level, level_width in enumerate(settings.widths):
            size = settings.resolution >> level
            attends = size in settings.attention
            if level == 0:  # one more channel, of ones, stands for a bias
                self.enc[f"{size}x{size}_conv"] = _conv(settings.image_channels + 1, width, 3)
            else:
                self.enc[f"{size}x{size}_down"] = _Block(
                    width, width, settings, encoder=True, resample="down"
                )
            skips.append(width)
            for i in range(settings.blocks):
                self.enc[f"{size}x{size}_block{i}"] = _Block(
                    width, level_width, settings, encoder=True, attention=attends
                )
                width = level_width
                skips.append(width)
        return skips

    def _add_decoder(self, skips: list[int]) -> None:
        settings = self.settings
        width = settings.widths[-1]
        for level in reversed(range(len(settings.widths))):
            size = settings.resolution >> level
            attends = size in settings.attention
            if level == len(settings.widths) - 1:
                self.dec[f"{size}x{size}_in0"] = _Block(width, width, settings, encoder=False, attention=True)
                self.dec[f"{size}x{size}_in1"] = _Block(width, width, settings, encoder=False)
            else:
                self.dec[f"{size}x{size}_up"] = _Block(width, width, settings, encoder=False, resample="up")
            for i in range(settings.blocks + 1):
                self.dec[f"{size}x{size}_block{i}"] = _Block(
                    width + skips.pop(), settings.widths[level], settings, encoder=False, attention=attends
                )
                width = settings.widths[level]

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map a scaled noisy image to the network's raw output.

        Args:
            x: Float (B, image channels, H, W).
            noise: ln(sigma) / 4, float (B,).
            labels: int64 (B,), -1 for no label; none only for an unconditional network.
        """
        embedding = self._embedding(noise, labels)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips = []
        for module in self.enc.values():
            x = module(x, embedding) if isinstance(module, _Block) else module(x)
            skips.append(x)
        for name, block in self.dec.items():
            if "block" in name:
                x = _joined(x, skips.pop(), self.settings.concat_balance)
            x = block(x, embedding)
        made: Tensor = self.out_conv(x)
        return made

    def _embedding(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        embedding: Tensor = self.emb_noise(self.emb_fourier(noise))
        if self.emb_label is not None:
            assert labels is not None
            # The product with a one-hot vector times sqrt(classes); no label is a vector of zeros.
            rows = F.embedding(labels.clamp(min=0), self.emb_label.weight.t())
            rows = rows * (labels >= 0)[:, None] * math.sqrt(self.settings.num_labels)
            embedding = _mixed(embedding, rows, self.settings.label_balance)
        return _silu(embedding)
