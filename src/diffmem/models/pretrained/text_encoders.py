"""Prompts as a table of what text encoders make of them, which is all that a network needs: its labels are the rows.

The encoders (CLIP of transformers, constructed from checked settings and filled with tensors that fit exactly) are loaded one after another
and dropped again, so that they never meet the network in memory. Each prompt is encoded on its own: its row does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffmem.errors import UserError
from diffmem.models.pretrained.diffusers_build import constructed, filled, library_class, text_of
from diffmem.models.pretrained.diffusers_files import read_weights
from diffmem.models.pretrained.text_folder import EncoderPart, EncoderSettings, TextParts, read_encoder
from diffmem.models.pretrained.tokenizers_clip import ClipTokenizer, read_tokenizer

__all__ = ["Encoder", "PromptTable", "encoded", "encoders_of"]

Merge = Callable[[str, nn.Module], None]
"""Changes the weights of a part of a pipeline, by its name."""


@dataclass(frozen=True, eq=False)
class PromptTable:
    """What a network is given for each prompt, and in the last row for none.

    Attributes:
        prompts: The prompts.
        states: float32 (P + 1, L, E), on the CPU.
        pooled: float32 (P + 1, e) of SDXL; else none.
        truncated: Numbers of the prompts that are longer than what the encoders read, so that their ends were cut off.
        longest: How many pieces of a prompt they read.
    """

    prompts: tuple[str, ...]
    states: Tensor
    pooled: Tensor | None
    truncated: tuple[int, ...]
    longest: int


@dataclass(frozen=True, eq=False)
class Encoder:
    """A text encoder that is ready to be loaded: what is small is read and checked.

    Attributes:
        part: Where it is.
        settings: What its settings say.
        tokenizer: Its tokenizer.
        make: Constructs its network, with any weights.
    """

    part: EncoderPart
    settings: EncoderSettings
    tokenizer: ClipTokenizer
    make: Callable[[], nn.Module]

    @property
    def width(self) -> int:
        """Of its states."""
        return self.settings.hidden_size

    def skeleton(self) -> nn.Module:
        """Return its network without storage."""
        with torch.device("meta"):
            return constructed(self.part.config, self.make)

    def loaded(self, root: Path) -> nn.Module:
        """Return its network with the weights of the folder; see `filled`."""
        tensors = read_weights(self.part.config.parent, root, allow_pickle=False, encoder=True)
        wanted = self.skeleton().state_dict()
        # Versions of the library differ in whether names begin with the name of the inner model.
        for name in list(tensors):
            for new in (name.removeprefix("text_model."), f"text_model.{name}"):
                if name not in wanted and new in wanted and new not in tensors:
                    tensors[new] = tensors.pop(name)
                    break
        return filled(self.part.config, self.make, tensors, self.settings.num_hidden_layers)


def encoders_of(parts: TextParts) -> list[Encoder]:
    """Return the text encoders of a pipeline, checked and not loaded.

    Raises:
        UserError: A package is missing, or a part is damaged or not supported.
    """
    found = []
    configuration = library_class("transformers", "CLIPTextConfig", "text")
    for part in parts.encoders:
        settings = read_encoder(part, parts.home)
        tokenizer = read_tokenizer(
            part.tokenizer, parts.home, settings.vocab_size, settings.max_position_embeddings
        )
        # With 2, which older settings say, the library takes the largest number of a prompt for its end.
        if settings.eos_token_id not in (2, tokenizer.end):
            raise UserError(
                f"{part.config}: eos_token_id {settings.eos_token_id} is not the end of a prompt of its tokenizer, {tokenizer.end}."
            )
        network = library_class("transformers", part.kind, "text")
        found.append(
            Encoder(part, settings, tokenizer, partial(_constructed, network, configuration, settings))
        )
    if len({encoder.tokenizer.length for encoder in found}) > 1:
        raise UserError(f"{parts.home}: its tokenizers make prompts of different lengths.")
    return found


def _constructed(network: Any, configuration: Any, settings: EncoderSettings) -> nn.Module:
    made: nn.Module = network(configuration(**settings.arguments))
    return made


def encoded(
    encoders: Sequence[Encoder],
    parts: TextParts,
    prompts: Sequence[str],
    merge: Merge,
    device: torch.device | str,
) -> PromptTable:
    """Encode prompts, and none, as the pipeline does.

    SD takes the last states; SDXL those before the last layer of both encoders, side by side, and the projected end of the second.

    Args:
        encoders: Of the pipeline.
        parts: Of the pipeline.
        prompts: At least one; they may repeat.
        merge: Called with each network before it is used.
        device: Where to compute.

    Raises:
        UserError: There is no prompt, or an encoder does not run.
    """
    if not prompts:
        raise UserError("There is no prompt. Give at least one; the empty prompt is one, too.")
    distinct = list(dict.fromkeys([*prompts, ""]))
    cut: set[str] = set()
    states, pooled = [], None
    for encoder in encoders:
        network = encoder.loaded(parts.home)
        merge(encoder.part.name, network)
        network.to(device)
        rows, ends = [], []
        for prompt in distinct:
            numbers, is_cut = encoder.tokenizer(prompt)
            cut |= {prompt} if is_cut else set()
            try:
                with torch.no_grad():
                    made: Any = network(
                        torch.tensor([numbers], device=device), output_hidden_states=parts.is_xl
                    )
            except Exception as error:  # whatever a network's parts raise on settings that do not fit
                raise UserError(
                    f"The text encoder in {encoder.part.config.parent} does not run: {text_of(error)}."
                ) from error
            rows.append((made.hidden_states[-2] if parts.is_xl else made.last_hidden_state).float().cpu())
            if parts.is_xl and encoder is encoders[-1]:
                ends.append(made.text_embeds.float().cpu())
        states.append(torch.cat(rows))
        pooled = torch.cat(ends) if ends else None
        del network
    joined = torch.cat(states, -1)
    if not bool(joined.isfinite().all()):
        raise UserError(f"The text encoders of {parts.home} return values that are not finite.")
    row = {prompt: index for index, prompt in enumerate(distinct)}
    order = torch.tensor([row[prompt] for prompt in [*prompts, ""]])
    table = PromptTable(
        tuple(prompts),
        joined[order],
        None if pooled is None else pooled[order],
        tuple(index for index, prompt in enumerate(prompts) if prompt in cut),
        encoders[0].tokenizer.length - 2,
    )
    if parts.zero_null:
        table.states[-1] = 0
        if table.pooled is not None:
            table.pooled[-1] = 0
    return table
