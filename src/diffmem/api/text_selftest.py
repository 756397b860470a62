"""The self-test of audits of text-to-image models: a LoRA whose repeats were planted goes through the audit as any other does."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from diffmem.api.auditing import Audit, audit
from diffmem.auditing.prompts.planted import HOME, emoji_sets
from diffmem.data import write_images
from diffmem.memorization.rates import Rate
from diffmem.sampling import SamplerConfig

__all__ = ["GUIDANCE", "SAMPLER", "TextSelfTest", "text_self_test", "write_emoji"]

SAMPLER = SamplerConfig(solver="euler", steps=12)
"""How the emoji model is sampled in the self-test and in the tutorial."""

GUIDANCE = 2.0

_PROMPTS = 100


@dataclass(frozen=True, eq=False)
class TextSelfTest:
    """What the audit found of a fine-tune whose truth is known.

    Attributes:
        audit: The audit of its last epoch.
        shares: By how often an epoch holds an image, the share of samples of its caption that copy it; the most repeats first.
        failures: What the audit did not find, or should not have found, a sentence each.
    """

    audit: Audit
    shares: dict[int, Rate]
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the audit found what was planted, and nothing else."""
        return not self.failures

    def __str__(self) -> str:
        rows = [
            f"seen {repeats:>2} times an epoch: {rate.count:>4,} of {rate.total:,} samples copy the image of their caption"
            for repeats, rate in self.shares.items()
        ]
        return "\n".join([*rows, *(f"FAILED: {text}" for text in self.failures)] or ["no samples"])


def write_emoji(out: Path) -> None:
    """Write the emoji fine-tune as its owner would have it: `model/`, `loras/`, `dataset/` (kohya's folders) and `heldout/`.

    What is there stays.

    Raises:
        DiffmemError: It cannot be written.
    """
    sets = emoji_sets()
    for name in ("model", "loras"):
        if not (out / name).exists():
            # Renamed once it is whole: what is there is taken as it is.
            shutil.copytree(HOME / name, out / f".{name}.copied", dirs_exist_ok=True)
            (out / f".{name}.copied").rename(out / name)
    for name, images in (("dataset", sets.training), ("heldout", sets.heldout)):
        if not (out / name).exists():
            write_images(images, out / name)


def text_self_test(
    out: Path | None = None,
    *,
    prompts: int = _PROMPTS,
    seed: int = 0,
    device: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> TextSelfTest:
    """Audit the last epoch of the emoji LoRA, and check the audit against what was planted.

    Args:
        out: Folder for the fine-tune (see `write_emoji`) and, in `audit/`, for the report; none to leave nothing behind.
        prompts: Most training captions, and most held-out ones.
        seed: Of the draw of prompts.
        device: 'cpu', 'cuda' or 'cuda:N'; by default a GPU where there is one.
        report: Called with what the work takes.

    Raises:
        UserError: Packages for text-to-image models are missing.
    """
    with tempfile.TemporaryDirectory(prefix="diffmem-emoji-") if out is None else nullcontext(out) as place:
        home = Path(place)
        write_emoji(home)
        last = sorted((home / "loras").glob("*.safetensors"))[-1]
        done = audit(
            home / "dataset",
            model=home / "model",
            heldout=home / "heldout",
            lora=last,
            sampler=SAMPLER,
            guidance=GUIDANCE,
            prompts_per_group=prompts,
            seed=seed,
            device=device,
            report=report,
            title="Self-test: emoji that a LoRA saw 64, 16, 4 times an epoch, and once",
        )
        if out is not None:
            done.save(out / "audit")
    shares = _shares(done)
    return TextSelfTest(done, shares, tuple(_failures(done, shares)))


def _shares(done: Audit) -> dict[int, Rate]:
    counts: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for one in [] if done.prompts is None else done.prompts.prompts:
        if one.group == "train" and one.repeats is not None:
            counts[one.repeats][0] += one.own
            counts[one.repeats][1] += one.samples
    return {repeats: Rate(count, total) for repeats, (count, total) in sorted(counts.items(), reverse=True)}


def _failures(done: Audit, shares: dict[int, Rate]) -> list[str]:
    found = []
    if done.verdict.verdict != "copies found":
        found.append(
            f"The verdict is '{done.verdict.verdict}', and emoji that were seen often come back as copies."
        )
    values = [rate.value for rate in shares.values()]
    if sorted(values, reverse=True) != values or len(values) < 2 or values[0] <= values[-1]:
        found.append("Emoji that were seen more often are not copied more often.")
    if shares and min(shares) == 1 and shares[1].count:
        found.append(f"{shares[1].count} samples are said to copy emoji that were seen once an epoch.")
    groups = [] if done.prompts is None else done.prompts.record.groups
    trained = next((one for one in groups if one.group == "train"), None)
    if trained is None or trained.base is None or trained.base.p_value > 0.001:
        found.append("The base model, which saw none of these emoji, is not told from the fine-tune.")
    agreement = [
        one
        for one in ([] if done.detected is None else done.detected.record.detectors)
        if one.key == "agreement"
    ]
    if not agreement or not agreement[0].usable:
        found.append("Agreement of seeds does not show which prompts were trained on often.")
    return found
