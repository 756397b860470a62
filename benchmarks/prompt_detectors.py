"""What an audit by prompt costs beside the evaluations of the network: the emoji model, its base, and all detectors.

python benchmarks/prompt_detectors.py [PROMPTS]

Half of the prompts (256 unless given) are training captions and half held-out ones, with 4 seeds of 12 steps. The target is 3 minutes
on two cores, and at most 10% beside the network in the detectors. Prints seconds.
"""

import sys
import tempfile
import time
from pathlib import Path

import diffusers

import diffmem as dm
from diffmem.api.text_selftest import GUIDANCE, SAMPLER, write_emoji
from diffmem.auditing.prompts.probing import Probing

SPENT = {"network": 0.0, "autoencoder": 0.0, "network for detectors": 0.0, "autoencoder for detectors": 0.0}


def timed(owner, name, key, inside):
    """Add the time of a method to `SPENT`, and to that of detectors while one of them runs."""
    plain = getattr(owner, name)

    def call(*args, **options):
        started = time.perf_counter()
        made = plain(*args, **options)
        took = time.perf_counter() - started
        SPENT[key] += took
        if inside and inside[-1]:
            SPENT[f"{key} for detectors"] += took
        return made

    setattr(owner, name, call)


def main():
    """Run the audit once, and print where its time went."""
    prompts = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    inside, probing = [False], 0.0
    timed(diffusers.UNet2DConditionModel, "forward", "network", inside)
    for name in ("encode", "decode"):
        timed(diffusers.AutoencoderKL, name, "autoencoder", inside)

    def watched(plain):
        def call(*args, **options):
            nonlocal probing
            inside[-1], started = True, time.perf_counter()
            plain(*args, **options)
            probing += time.perf_counter() - started
            inside[-1] = False

        return call

    Probing.of_model, Probing.of_base = watched(Probing.of_model), watched(Probing.of_base)
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        write_emoji(home)
        started = time.perf_counter()
        dm.audit(
            home / "dataset", model=home / "model", heldout=home / "heldout", lora=sorted((home / "loras").iterdir())[-1],
            sampler=SAMPLER, guidance=GUIDANCE, prompts_per_group=prompts // 2, device="cpu", report=print,
        )  # fmt: skip
        whole = time.perf_counter() - started
    models = SPENT["network"] + SPENT["autoencoder"]
    beside = probing - SPENT["network for detectors"] - SPENT["autoencoder for detectors"]
    print(
        f"audit {whole:.1f} s: network {SPENT['network']:.1f} s, autoencoder {SPENT['autoencoder']:.1f} s, all else {whole - models:.1f} s"
    )
    print(f"detectors {probing:.1f} s, of that network {SPENT['network for detectors']:.1f} s")
    print(
        f"detectors beside the networks: {beside:.2f} s, {beside / SPENT['network']:.1%} of all evaluations of the network"
    )


if __name__ == "__main__":
    main()
