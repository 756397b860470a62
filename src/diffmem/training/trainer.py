"""`Trainer`: the state of one training and its single step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffmem.distributed import world
from diffmem.environment import has_bfloat16
from diffmem.errors import DiffmemError, UserError
from diffmem.memory import within_memory
from diffmem.models.networks.dropout import Dropout, set_masks
from diffmem.models.preconditioning import Preconditioned, Preconditioning
from diffmem.training.config import TrainingConfig
from diffmem.training.flat import FlatParameters
from diffmem.training.randomness import DataOrder, stream_seed
from diffmem.training.schedule import ema_beta, learning_rate, total_images

__all__ = [
    "Draw",
    "Trainer",
    "arithmetic",
    "denoising_loss",
    "load_optimizer",
    "make_optimizer",
    "optimizer_state",
]


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[AbstractContextManager[object]]:
    """Compute in 'float32' (TF32 off), 'tf32' (on for matrix products and convolutions on CUDA) or 'bf16' (autocast).

    Both passes belong inside: the settings hold for the kernels that run, whoever made the graph.

    Yields:
        A further context, for the forward pass only: autocast.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def make_optimizer(config: TrainingConfig, vector: nn.Parameter) -> torch.optim.Optimizer:
    """Return the optimizer of a procedure for parameters that lie in one vector."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            [vector], config.learning_rate, config.momentum, weight_decay=config.weight_decay, fused=True
        )
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind([vector], config.learning_rate, config.betas, 1e-8, config.weight_decay, fused=True)


def optimizer_state(optimizer: torch.optim.Optimizer, vector: nn.Parameter) -> dict[str, Tensor]:
    """Return what an optimizer keeps of its vector, as parts of a training's state."""
    held = optimizer.state.get(vector, {})
    return {f"optimizer.{key}": value for key, value in held.items() if value is not None}


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Give an optimizer the parts of a training's state that `optimizer_state` made."""
    prefix = "optimizer."
    held = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    saved = optimizer.state_dict()
    saved["state"] = {0: held} if held else {}
    optimizer.load_state_dict(saved)


class Draw(NamedTuple):
    """What one step sees: this process's part of the batch, b images.

    Attributes:
        images: In [-1, 1], (b, C, H, W).
        uniform: Uniform numbers for the noise levels, (b,).
        normal: Normal numbers for the noise levels, (b,).
        noise: Like the images.
        labels: int64 (b,), or none.
    """

    images: Tensor
    uniform: Tensor
    normal: Tensor
    noise: Tensor
    labels: Tensor | None


def _check_labels(labels: NDArray[np.int64] | None, count: int, classes: int) -> None:
    if labels is None:
        raise UserError(f"The denoiser has {classes} classes, but the training images have no labels.")
    if len(labels) != count:
        raise UserError(f"There are {len(labels)} labels for {count} training images; give one for each.")
    low, high = int(np.min(labels)), int(np.max(labels))
    if low < -1 or high >= classes:
        raise UserError(
            f"Label {high if high >= classes else low} is outside 0..{classes - 1}, the classes of the denoiser."
        )


class Trainer:
    """One training: a denoiser, its average, its optimizer and its position in the data.

    All randomness is a function of the seed and the images seen, so a trainer that is rebuilt and given a saved `state`
    continues to the same weights, bit for bit on a CPU.

    Where several processes run together (`diffmem.distributed.world`), each makes a trainer of the same arguments and calls
    the same methods. Each sees a part of every batch, with the noise and dropout that one process would give these images;
    the gradients are summed. So the weights are the same in all processes, and those of one process up to the order in
    which float32 numbers are added.

    Args:
        denoiser: The network to train, moved to the device; trained in place.
        images: Training images, uint8 (N, C, H, W).
        labels: Classes, int64 (N,), or none for an unconditional denoiser.
        seed: Seed of the data order, noise and dropout.
        device: Where to train. The whole set is held there.

    Attributes:
        seen: Images seen so far.
        total: Images seen at the end.
        ema: The averaged denoiser, in evaluation mode.
        layout: How the parameters lie in the vectors of `state`.

    Raises:
        UserError: The images or labels do not fit the denoiser, there are more processes than images in a batch, or the
            processor has no arithmetic for a precision of bf16.
    """

    def __init__(
        self,
        denoiser: Preconditioned,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
        config: TrainingConfig,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if tuple(images.shape[1:]) != denoiser.image_shape:
            raise UserError(
                f"The images are {tuple(images.shape[1:])}, but the denoiser needs {denoiser.image_shape}."
            )
        if images.dtype != np.uint8 or not len(images):
            raise UserError(
                f"Training needs at least one image, as uint8 from 0 to 255; these are {len(images)} of {images.dtype}."
            )
        if denoiser.num_labels:
            _check_labels(labels, len(images), denoiser.num_labels)
        if config.precision == "bf16" and torch.device(device).type == "cpu" and not has_bfloat16():
            raise UserError(
                "training.precision = bf16: this processor has no arithmetic for bfloat16 (AVX512_BF16, AMX), so that training"
                " would be slower than in float32; leave it out, or train on a GPU or another machine."
            )
        self._world = world()
        rank, ranks = self._world.rank, self._world.size
        if ranks > config.batch_size:
            raise UserError(
                f"A batch of {config.batch_size} images cannot be split among {ranks} processes; start at most"
                f" {config.batch_size}, or set a larger training.batch_size."
            )
        self._part = slice(rank * config.batch_size // ranks, (rank + 1) * config.batch_size // ranks)
        _keep_freed_memory()
        self.config, self.seed, self.size, self.device = config, seed, len(images), torch.device(device)
        self.total = total_images(config, self.size)
        self.denoiser = denoiser.to(self.device).train()
        self.layout = FlatParameters(self.denoiser)
        self.ema = copy.deepcopy(denoiser)
        self._ema_vector = FlatParameters(self.ema).vector.requires_grad_(False)
        self.ema.eval().requires_grad_(False)
        self._images = torch.from_numpy(np.array(images)).to(self.device)  # a copy: image sets are read-only
        self._labels = None
        if denoiser.num_labels and labels is not None:
            self._labels = torch.from_numpy(np.array(labels, dtype=np.int64)).to(self.device)
        self._order = DataOrder(self.size, seed, cyclic=config.order == "cyclic")
        self._optimizer = make_optimizer(config, self.layout.vector)
        self._generator = torch.Generator(self.device)
        self._dropouts = [module for module in denoiser.modules() if isinstance(module, Dropout)]
        self._network: Callable[..., Tensor] = torch.compile(denoiser) if config.compile else denoiser
        self.seen = 0
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self._loss_steps = 0

    def draw(self, seen: int) -> Draw:
        """Return what a step sees that follows so many images."""
        batch, part = self.config.batch_size, self._part
        indices = self._order.batch(seen, batch)[part].to(self.device)
        images = self._images[indices].to(torch.float32).mul_(1 / 127.5).sub_(1)
        labels = None if self._labels is None else self._labels[indices]
        # Drawn for the whole batch, so that an image's numbers do not depend on how many processes share it.
        self._generator.manual_seed(stream_seed(self.seed, "noise", seen))
        uniform = torch.rand(batch, generator=self._generator, device=self.device)[part]
        normal = torch.randn(batch, generator=self._generator, device=self.device)[part]
        shape = (batch, *images.shape[1:])
        noise = torch.randn(shape, generator=self._generator, device=self.device)[part]
        return Draw(images, uniform, normal, noise, labels)

    def step(self) -> None:
        """See one batch: of all processes together, `batch_size` images.

        Raises:
            UserError: The batch needs more memory than the GPU has; the message says how many images fit.
        """
        config, seen, draw = self.config, self.seen, self.draw(self.seen)
        loss = within_memory(
            lambda count: self._gradient(draw, count),
            len(draw.images),
            "training.batch_size",
            self._world.size,
        )
        self._world.all_reduce(self.layout.gradient)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(config, self.size, seen)
        self._optimizer.step()
        self._ema_vector.lerp_(self.layout.vector.detach(), 1 - ema_beta(config, self.size, seen))
        self.count(loss)

    def count(self, loss: Tensor) -> None:
        """Count a step and its loss: one of `step`, or one that was done elsewhere (see `TrainerGroup`)."""
        self._loss_sum += loss
        self._loss_steps += 1
        self.seen += self.config.batch_size

    def _gradient(self, draw: Draw, count: int) -> Tensor:
        """Compute the gradient of the first images' share of the loss, and return that share."""
        config, first, preconditioning = self.config, self._part.start, self.denoiser.preconditioning
        images, uniform, normal, noise = (part[:count] for part in draw[:4])
        labels = None if draw.labels is None else draw.labels[:count]
        sigma = preconditioning.noise_levels(uniform, normal, config.p_mean, config.p_std)
        if self.denoiser.model.style.dropout:
            masks = stream_seed(self.seed, "dropout", self.seen)
            set_masks(self._dropouts, masks, first, first + count, self.device)
        self.layout.zero_gradient()
        # Before the first step the optimizer holds nothing yet; Adam will need this much beside a gradient's memory.
        later = None if self._optimizer.state else torch.empty(2, len(self.layout.vector), device=self.device)
        with arithmetic(config.precision, self.device) as forward:
            with forward:
                loss = denoising_loss(
                    self._network, preconditioning, images, sigma, noise, labels, config.batch_size
                )
            loss.backward()  # type: ignore[no-untyped-call]
        del later
        return loss.detach()

    def take_loss(self) -> float | None:
        """Return the mean loss of all processes since the last call, none if there was no step since.

        Raises:
            DiffmemError: The loss is NaN or infinite: training has diverged.
        """
        if not self._loss_steps:
            return None
        mean = float(self._whole_loss()) / self._loss_steps
        if not math.isfinite(mean):
            raise self._diverged(f"The training loss became {mean}")
        self._loss_sum.zero_()
        self._loss_steps = 0
        return mean

    def _whole_loss(self) -> Tensor:
        whole = self._loss_sum.clone()
        self._world.all_reduce(whole)
        return whole

    def check_agreement(self) -> None:
        """Check that all processes hold the same weights and averages, bit for bit.

        Raises:
            DiffmemError: They do not: a device computes differently from the others, or wrongly.
        """
        vectors = (self.layout.vector.detach(), self._ema_vector)
        sums = self._world.gather([int(one.view(torch.int32).sum(dtype=torch.int64)) for one in vectors])
        others = [rank for rank, held in enumerate(sums) if held != sums[0]]
        if others:
            raise DiffmemError(
                f"After {self.seen} images, processes {', '.join(map(str, others))} of {len(sums)} hold other weights than"
                " process 0, though all did the same. Use devices of one kind; if they are, one of them is faulty."
            )

    def check_average(self) -> None:
        """Check that the averaged weights can be used: the last update can spoil them though every loss was finite.

        Raises:
            DiffmemError: One of them is NaN or infinite: training has diverged.
        """
        if not bool(torch.isfinite(self._ema_vector).all()):
            raise self._diverged("The averaged weights became NaN or infinite")

    def _diverged(self, what: str) -> DiffmemError:
        return DiffmemError(
            f"{what} by {self.seen} images (learning rate {self.config.learning_rate:g}, precision"
            f" {self.config.precision}). Training stopped; try a lower training.learning_rate or a longer training.warmup."
        )

    def state(self) -> dict[str, Tensor]:
        """Return everything that a later `load_state` needs, as tensors; the same in all processes, which call it together."""
        steps = torch.tensor(float(self._loss_steps), dtype=torch.float64)
        return {
            "weights": self.layout.vector.detach(),
            "ema": self._ema_vector,
            "seen": torch.tensor(self.seen),
            "loss": torch.stack([self._whole_loss().cpu(), steps]),
            **optimizer_state(self._optimizer, self.layout.vector),
            **{f"buffer.{name}": buffer for name, buffer in self.denoiser.named_buffers()},
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved state, which may be of another number of processes.

        Raises:
            UserError: It is the state of another architecture.
        """
        vector = self.layout.vector
        buffers = dict(self.denoiser.named_buffers())
        missing = {"weights", "ema", "seen", "loss", *(f"buffer.{name}" for name in buffers)} - set(state)
        if missing or state["weights"].shape != vector.shape:
            raise UserError(
                "The saved training state is of another architecture"
                + (
                    f": it lacks {sorted(missing)[0]!r}."
                    if missing
                    else f": {state['weights'].numel()} numbers, not {vector.numel()}."
                )
            )
        with torch.no_grad():
            vector.copy_(state["weights"])
            self._ema_vector.copy_(state["ema"])
            for name, buffer in buffers.items():
                buffer.copy_(state[f"buffer.{name}"])
            for name, buffer in self.ema.named_buffers():
                buffer.copy_(state[f"buffer.{name}"])
        load_optimizer(self._optimizer, state)
        self.seen = int(state["seen"])
        self._loss_sum.copy_(state["loss"][0] if self._world.is_main else torch.zeros(()))
        self._loss_steps = int(state["loss"][1])


def _keep_freed_memory() -> None:
    """Make Linux's C library keep a step's memory for the next: it keeps twice the largest block of up to 32 MB ever freed."""
    torch.empty(30 * 2**20, dtype=torch.uint8)


def denoising_loss(
    denoiser: Callable[..., Tensor],
    preconditioning: Preconditioning,
    images: Tensor,
    sigma: Tensor,
    noise: Tensor,
    labels: Tensor | None,
    batch_size: int | None = None,
) -> Tensor:
    """Return the weighted squared error, summed over pixels and averaged over the batch, as in the study.

    L = E_{y, sigma, n} lambda(sigma) ||D(y + sigma n; sigma) - y||^2 (Karras et al. 2022, eq. 2 and 108).

    Args:
        denoiser: A `Preconditioned` network (or its compiled form).
        preconditioning: Its preconditioning, which weights the levels.
        images: Clean images y in [-1, 1], float (B, C, H, W).
        sigma: Noise levels, float (B,).
        noise: Standard normal noise n, like the images.
        labels: Classes, int64 (B,), or none.
        batch_size: What the sum over images is divided by: the size of the global batch, of which these images are a
            part. B if none.
    """
    level = sigma.reshape(-1, 1, 1, 1)
    error = denoiser(torch.addcmul(images, noise, level), sigma, labels) - images
    return (preconditioning.loss_weight(sigma) * error.square().flatten(1).sum(1)).sum() / (
        batch_size or len(images)
    )
