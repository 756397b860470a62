"""Text-to-image models whose answers are known: some captions give back their image, all else is drawn about a mean."""

import gc
import hashlib
import weakref
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import diffmem
from diffmem.api import text_models
from diffmem.auditing.prompts import sampling
from diffmem.data import CanarySet, ImageSet
from diffmem.models.denoiser import Origin
from diffmem.models.latent import LatentDenoiser
from diffmem.models.pretrained.text_encoders import PromptTable
from diffmem.models.pretrained.text_model import TextModel
from diffmem.sampling import SamplerConfig

SHAPE = (3, 8, 8)
CAPTIONS = tuple(f"sks dog {number}" for number in range(40))
PIXELS = np.random.default_rng(0).integers(0, 256, (140, *SHAPE), dtype=np.uint8)
TRAINING = ImageSet(PIXELS[:40], None, tuple(map(str, range(40))), captions=CAPTIONS)
HELDOUT = ImageSet(
    PIXELS[40:], None, tuple(map(str, range(100))), captions=tuple(f"a cat {n}" for n in range(100))
)


@dataclass
class Known:
    """Captions up to `copying` give back their image; of other prompts, the Gaussian about a mean of their own, or one value."""

    prompts: tuple[str, ...]
    copying: int
    constant: str | None = None
    deaf: bool = False
    shift: float = 0.0
    image_shape, sigma_min, sigma_max, device = SHAPE, 0.02, 15.0, torch.device("cpu")

    def __post_init__(self):
        self.num_labels = len(self.prompts)
        answers = [self._answer(text) for text in (*self.prompts, "")]  # the last is that of no prompt, -1
        self._images = torch.stack([torch.as_tensor(image, dtype=torch.float64) for image, _ in answers])
        self._spread = torch.tensor([spread for _, spread in answers], dtype=torch.float64)

    def __call__(self, x, sigma, labels=None):
        given = torch.full((len(x),), -1) if labels is None else labels
        levels = torch.as_tensor(sigma, dtype=torch.float64).expand(len(x))
        share = (self._spread[given] / (0.2 + levels**2)).view(-1, 1, 1, 1)
        return (self._images[given] + (x.double() - self._images[given]) * share).float()

    def _answer(self, text):
        """The image about which a prompt is answered, and the variance of the answers."""
        if text in CAPTIONS[: self.copying]:
            return PIXELS[CAPTIONS.index(text)] / 127.5 - 1, 0.0
        if text == self.constant:
            return np.full(SHAPE, -1.0), 0.0
        key = 0 if self.deaf or not text else zlib.crc32(text.encode())
        return np.random.default_rng(key).uniform(-0.5, 0.5, SHAPE) + self.shift, 0.2


@pytest.fixture
def opened(monkeypatch):
    """What `open_text_model` gives: a LoRA copies 10 captions, its base none; how each was opened is kept."""
    calls, made = [], []

    def open_(path, prompts, *, lora=None, size=None, device=None, dtype="float32", **changes):
        gc.collect()
        calls.append((str(path), lora, [each() is not None for each in made]))
        settings = {"copying": 10 if lora is not None else 0} | open_.changes
        digest = settings.pop("digest", hashlib.sha256(f"{path} {lora}".encode()).hexdigest())
        inner = Known(tuple(prompts), **settings)
        model = LatentDenoiser(inner, lambda z: z, lambda x: x, SHAPE)
        model.origin = Origin("text-to-image", Path(path).name, digest)
        made.append(weakref.ref(inner))
        states = torch.zeros(len(prompts) + 1, 2, 5 if path == Path("other") else 2)
        return TextModel(
            model, PromptTable(tuple(prompts), states, None, open_.cut, 14), None, 4 * 2**20, digest
        )

    open_.changes, open_.cut = {}, ()
    monkeypatch.setattr(sampling, "open_text_model", open_)
    monkeypatch.setattr(text_models, "is_text_folder", lambda folder: True)
    open_.calls = calls
    return open_


def audit(**options):
    usual = {
        "model": "sd", "lora": "my.safetensors", "heldout": HELDOUT, "seeds_per_prompt": 2, "guidance": 1.0, "device": "cpu",
        "sampler": SamplerConfig(steps=6),
    }  # fmt: skip
    return diffmem.audit(TRAINING, **(usual | options))


def canaries(pixels):
    captions = {
        "planted_captions": CAPTIONS[:5],
        "control_captions": tuple(f"left out {n}" for n in range(5)),
    }
    return CanarySet(pixels[:5], pixels[100:105], pixels[100:105], 1, 0, "0" * 64, **captions)
