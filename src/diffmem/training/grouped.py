"""Several trainings of one architecture in one process, as one network with a group of channels for each.

A small network leaves most of a core's time to what surrounds its arithmetic: calls, and convolutions too short to run at
speed. Here the activations of all members lie side by side as channels. A convolution of K members is one convolution with K
groups, a normalisation has K times the groups, a linear map is one batched matrix product, and the optimizer and the average
are still one operation each. No number of a member depends on another member.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmem.distributed import world
from diffmem.errors import UserError
from diffmem.models.networks.dropout import Dropout, set_masks
from diffmem.models.networks.families import DhariwalUNet, SongUNet
from diffmem.models.networks.layers import Conv, FourierEmbedding, GroupNorm, Linear
from diffmem.models.networks.unet import UNet, UNetBlock
from diffmem.models.preconditioning import Preconditioned
from diffmem.training.config import TrainingConfig
from diffmem.training.flat import FlatParameters
from diffmem.training.randomness import stream_seed
from diffmem.training.schedule import ema_beta, learning_rate
from diffmem.training.trainer import Trainer, arithmetic, load_optimizer, make_optimizer, optimizer_state

__all__ = ["OWN_SETTINGS", "TrainerGroup", "common_settings"]

# Shapes of the grouped network, of K members: activations (B, K C, H, W) with channels innermost, those of a member side by
# side; embeddings (B K, E), the members of an image side by side; parameters those of the members one after the other.


OWN_SETTINGS = ("epochs", "learning_rate", "warmup", "ema", "order", "rounding", "evaluations")
"""Settings of training in which the members of a group may differ: all that say where a member is in its own schedule."""


def common_settings(config: TrainingConfig) -> dict[str, Any]:
    """Return the settings of training that the members of a group share."""
    return config.model_dump(mode="json", exclude=set(OWN_SETTINGS))


class _Grouped(nn.Module):
    members: int


class _Conv(_Grouped, Conv):
    def _convolve(self, x: Tensor, padding: int) -> Tensor:
        if self.weight is None:
            return x
        return F.conv2d(x, self.weight, self.bias, padding=padding, groups=self.members)

    def forward(self, x: Tensor) -> Tensor:
        if not self.filter_after:
            return super().forward(x)
        assert self.weight is not None
        taps, pad = self._filter(self.outputs * self.members)
        y = F.conv2d(x, self.weight, padding=self.kernel // 2 + pad, groups=self.members)
        y = F.conv2d(y, taps.to(y.dtype), groups=y.shape[1], stride=2)
        return y if self.bias is None else y + self.bias.reshape(1, -1, 1, 1)


class _Linear(_Grouped, Linear):
    def forward(self, x: Tensor) -> Tensor:
        inputs = torch.unflatten(x, 0, (-1, self.members)).transpose(0, 1)
        weight = torch.unflatten(self.weight, 0, (self.members, -1)).transpose(1, 2)
        assert self.bias is not None
        y = torch.baddbmm(self.bias.view(self.members, 1, -1), inputs, weight)
        return y.transpose(0, 1).flatten(0, 1)


class _Affine(_Linear):
    """A map from the embedding to channels: one number for each, or a scale and then a shift for each."""

    parts: int

    def forward(self, x: Tensor) -> Tensor:
        y = torch.unflatten(super().forward(x), 0, (-1, self.members))
        return torch.unflatten(y, 2, (self.parts, -1)).transpose(1, 2).flatten(1)


class _GroupNorm(_Grouped, GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups * self.members, self.weight, self.bias, self.eps)


class _FourierEmbedding(_Grouped, FourierEmbedding):
    def forward(self, x: Tensor) -> Tensor:
        angles = (x.view(-1, self.members, 1) * (2 * math.pi * self.freqs.view(self.members, -1))).flatten(
            0, 1
        )
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class _Dropout(_Grouped, Dropout):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return x
        # A member's mask counts the values of one of its own images.
        y = super().forward(_by_member(x, self.members).permute(0, 3, 4, 1, 2).flatten(0, 1))
        return _joined(torch.unflatten(y, 0, (-1, self.members)).permute(0, 3, 4, 1, 2))


class _UNet(_Grouped, UNet):
    def decode_block(self, block: UNetBlock, x: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        if x.shape[1] != block.inputs * self.members:
            x = _joined(torch.cat([_by_member(part, self.members) for part in (x, skips.pop())], dim=4))
        return block(x, embedding)  # type: ignore[no-any-return]

    def label_embedding(self, labels: Tensor, scale: float = 1.0) -> Tensor:
        assert self.map_label is not None
        tables = torch.unflatten(self.map_label.weight, 0, (self.members, -1)).transpose(1, 2)
        labels = labels.view(-1, self.members)
        rows = tables[torch.arange(self.members, device=labels.device), labels.clamp(min=0)] * scale
        rows = torch.where((labels >= 0)[:, :, None], rows, torch.zeros_like(rows))
        if self.map_label.bias is not None:
            rows = rows + self.map_label.bias.view(self.members, -1)
        return rows.flatten(0, 1)


class _SongUNet(_UNet, SongUNet):
    pass


class _DhariwalUNet(_UNet, DhariwalUNet):
    pass


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    Conv: _Conv,
    Linear: _Linear,
    GroupNorm: _GroupNorm,
    FourierEmbedding: _FourierEmbedding,
    Dropout: _Dropout,
    SongUNet: _SongUNet,
    DhariwalUNet: _DhariwalUNet,
}


def _by_member(x: Tensor, members: int) -> Tensor:
    """View (B, K C, H, W) as (B, H, W, K, C)."""
    return torch.unflatten(x.permute(0, 2, 3, 1), 3, (members, -1))


def _joined(x: Tensor) -> Tensor:
    """View (B, H, W, K, C) as (B, K C, H, W)."""
    return x.flatten(3).permute(0, 3, 1, 2)


def _group(networks: Sequence[Preconditioned]) -> Preconditioned:
    """Return one network that does what all of them do, with copies of their parameters."""
    made, members = copy.deepcopy(networks[0]), len(networks)
    for name, parameter in list(made.named_parameters()):
        owner, _, last = name.rpartition(".")
        values = torch.cat([network.get_parameter(name).detach() for network in networks])
        setattr(made.get_submodule(owner), last, nn.Parameter(values, parameter.requires_grad))
    for name, module in list(made.named_modules()):
        if isinstance(module, FourierEmbedding):
            module.freqs = torch.cat([network.get_buffer(f"{name}.freqs") for network in networks])
        if isinstance(module, UNetBlock):
            module.heads *= members
            affine = module.affine
            affine.__class__ = _Affine
            assert isinstance(affine, _Affine)
            affine.parts = 2 if module.style.adaptive_scale else 1
        # The layer keeps all it is made of; only how it computes changes.
        module.__class__ = _KINDS.get(type(module), type(module))
        module.members = members
    return made


def _check(members: Sequence[Trainer]) -> None:
    if not members:
        raise UserError("A group of trainings needs at least one member.")
    if world().size > 1:
        raise UserError("A group of trainings runs in one process; start it without torchrun.")
    first = members[0]
    if first.config.compile:
        raise UserError("A group of trainings is not compiled; set training.compile: false.")
    if type(first.denoiser.model) not in _KINDS:
        raise UserError(
            f"A {type(first.denoiser.model).__name__} cannot be trained in a group; train it by itself."
        )
    for member in members[1:]:
        if common_settings(member.config) != common_settings(first.config) or member.device != first.device:
            raise UserError(
                f"The trainings of a group need the same device and, but for {', '.join(OWN_SETTINGS)}, the same settings;"
                " sets and seeds may differ."
            )
        if _architecture(member.denoiser) != _architecture(first.denoiser):
            raise UserError(
                "The networks of a group need the same architecture; train the others by themselves."
            )
        if member.seen != first.seen:
            raise UserError(
                f"The trainings of a group start at the same place, but they have seen {first.seen} and {member.seen} images."
            )


def _architecture(denoiser: Preconditioned) -> tuple[object, ...]:
    shapes = {name: tensor.shape for name, tensor in denoiser.state_dict().items()}
    network = denoiser.model
    return type(network), network.style, network.mask, denoiser.preconditioning, shapes


class TrainerGroup:
    """Trainings that are stepped together: the weights are those of separate trainings, up to the rounding of float32.

    The members may differ in images, their number, labels, seeds, starting weights and the settings `OWN_SETTINGS`. A step is
    counted in each of them, with its loss; but the group works on copies: a member takes over the weights, averages and
    optimizer's state that it has come to at `settle`, for a snapshot or to go on alone.

    Args:
        members: Trainings of one architecture, with `common_settings`, on one device, that have seen equally many images.

    Attributes:
        members: The trainings.
        seen: Images that each member has seen so far.
        total: Images seen when the first of the members is at its end; the others go on alone, or as a new group.

    Raises:
        UserError: The trainings do not fit together.
    """

    def __init__(self, members: Sequence[Trainer]) -> None:
        _check(members)
        first = members[0]
        self.members, self.device = tuple(members), first.device
        self._config = first.config  # of which only what is common is used
        self.total = min(member.total for member in members)
        self._network = _group([member.denoiser for member in members]).train()
        self._flat = FlatParameters(self._network)
        self._dropouts = [module for module in self._network.modules() if isinstance(module, Dropout)]
        states = [member.state() for member in members]
        self.seen = first.seen
        self._load(states)
        self._spread_values: tuple[float, ...] = ()
        self._spread_weights = torch.zeros(0)

    def _load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        self._ema = self._join([state["ema"] for state in states])
        self._optimizer = make_optimizer(self._config, self._flat.vector)
        joined = {}
        for key, value in states[0].items():
            if key.startswith("optimizer."):
                whole = value.shape == states[0]["weights"].shape
                joined[key] = self._join([state[key] for state in states]) if whole else value.clone()
        load_optimizer(self._optimizer, joined)

    def _parts(self, vector: Tensor) -> list[list[Tensor]]:
        """Return views of a vector of the group: for each member those of its parameters, in their shapes."""
        members = len(self.members)
        views = [torch.unflatten(view, 0, (members, -1)) for view in self._flat.views(vector)]
        return [[view[k] for view in views] for k in range(members)]

    def _join(self, vectors: Sequence[Tensor]) -> Tensor:
        """Return a vector of the group made of one of each member."""
        made = torch.zeros_like(self._flat.vector.detach())
        for member, vector, parts in zip(self.members, vectors, self._parts(made), strict=True):
            for part, view in zip(parts, member.layout.views(vector), strict=True):
                part.copy_(view)
        return made

    def _split(self, vector: Tensor) -> list[Tensor]:
        """Return the vectors of the members that one of the group is made of."""
        made = [torch.zeros_like(member.layout.vector.detach()) for member in self.members]
        for member, one, parts in zip(self.members, made, self._parts(vector), strict=True):
            for part, view in zip(parts, member.layout.views(one), strict=True):
                view.copy_(part)
        return made

    def _spread(self, values: Sequence[float]) -> Tensor:
        """Return a vector of the group that holds each member's value at all its parameters."""
        if tuple(values) != self._spread_values:
            made = torch.zeros_like(self._flat.vector.detach())
            for value, parts in zip(values, self._parts(made), strict=True):
                for part in parts:
                    part.fill_(value)
            self._spread_values, self._spread_weights = tuple(values), made
        return self._spread_weights

    def step(self) -> None:
        """Let every member see one batch."""
        config, seen = self._config, self.seen
        draws = [member.draw(seen) for member in self.members]
        images, uniform, normal, noise = (
            torch.stack(parts, dim=1) for parts in zip(*(draw[:4] for draw in draws), strict=True)
        )
        preconditioning = self._network.preconditioning
        sigma = preconditioning.noise_levels(uniform, normal, config.p_mean, config.p_std)
        labels = None
        if self._network.num_labels:
            labels = torch.stack([draw.labels for draw in draws if draw.labels is not None], dim=1).flatten()
        self._set_masks(seen)
        self._flat.zero_gradient()
        level = sigma[:, :, None, None, None]
        noisy = torch.addcmul(images, noise, level)
        c_skip, c_out, c_in, c_noise = preconditioning.coefficients(level)
        inputs = (c_in * noisy).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        with arithmetic(config.precision, self.device) as forward:
            with forward:
                raw = self._network.model(inputs, c_noise.flatten(), labels)
            error = c_skip * noisy + c_out * raw.to(torch.float32).view(images.shape) - images
            weighted = preconditioning.loss_weight(sigma) * error.square().flatten(2).sum(2)
            losses = weighted.sum(0) / config.batch_size
            losses.sum().backward()
        self._update()
        for member, loss in zip(self.members, losses.detach(), strict=True):
            member.count(loss)
        self.seen = seen + config.batch_size

    def _set_masks(self, seen: int) -> None:
        if not self._network.model.style.dropout:
            return
        keys = []
        for member in self.members:
            seed = stream_seed(member.seed, "dropout", seen)
            set_masks(self._dropouts, seed, 0, self._config.batch_size, self.device)
            keys.append([layer.keys for layer in self._dropouts if layer.keys is not None])
        for layer, of_members in zip(self._dropouts, zip(*keys, strict=True), strict=True):
            layer.keys = torch.stack(of_members, dim=1).flatten()

    def _update(self) -> None:
        """Move weights and averages; members of different sizes are at different positions of their schedules."""
        vector = self._flat.vector.detach()
        rates = [learning_rate(member.config, member.size, self.seen) for member in self.members]
        for group in self._optimizer.param_groups:
            group["lr"] = max(rates)
        if min(rates) == max(rates):
            self._optimizer.step()
        else:
            # All three optimizers move a weight in proportion to the rate.
            before = vector.clone()
            self._optimizer.step()
            vector.copy_(torch.lerp(before, vector, self._spread([rate / max(rates) for rate in rates])))
        shares = [1 - ema_beta(member.config, member.size, self.seen) for member in self.members]
        if min(shares) == max(shares):
            self._ema.lerp_(vector, shares[0])
        else:
            self._ema.lerp_(vector, self._spread(shares))

    def settle(self) -> None:
        """Give the members their weights, averages and optimizer states."""
        vectors = {"weights": self._flat.vector.detach(), "ema": self._ema}
        others: dict[str, Tensor] = {}
        for key, value in optimizer_state(self._optimizer, self._flat.vector).items():
            whole = value.shape == self._flat.vector.shape
            (vectors if whole else others)[key] = value
        split = {key: self._split(vector) for key, vector in vectors.items()}
        for k, member in enumerate(self.members):
            state = member.state() | {key: parts[k] for key, parts in split.items()}
            state |= {key: value.clone() for key, value in others.items()}  # the optimizers count in place
            member.load_state(state)
