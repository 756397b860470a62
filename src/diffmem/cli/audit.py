"""`diffmem audit`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from diffmem.cli.data import check_outside
from diffmem.cli.options import (
    COPIES,
    MACHINE,
    MODEL,
    NO_MODEL_OPTIONS,
    NO_TEXT_MODEL_OPTIONS,
    PROMPTS,
    READING,
    SELF_TEST,
    Executor,
    ModelOptions,
    ReadingPairs,
    Settings,
    TextModelOptions,
)
from diffmem.distributed import world
from diffmem.environment import choose_device
from diffmem.errors import UserError
from diffmem.folder_lock import locked_folder
from diffmem.progress import show_progress

if TYPE_CHECKING:
    from diffmem.api.auditing import Audit

__all__ = ["audit"]


def audit(
    *,
    train: str | None = None,
    heldout: str | None = None,
    samples: str | None = None,
    prompts: Annotated[Path | None, PROMPTS] = None,
    controls: Annotated[Path | None, PROMPTS] = None,
    base_samples: Annotated[str | None, PROMPTS] = None,
    model: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative="")] = None,
    num: Annotated[int, MODEL] = 10_000,
    out: Path | None = None,
    self_test: Annotated[bool, SELF_TEST] = False,
    text_test: Annotated[bool, Parameter(name="--text", negative=""), SELF_TEST] = False,
    transforms: Annotated[str | None, COPIES] = None,
    features: Annotated[list[str] | None, COPIES] = None,
    canaries: Annotated[Path | None, COPIES] = None,
    deduplicated: Annotated[bool | None, COPIES] = None,
    train_read: Annotated[ReadingPairs, READING] = None,
    heldout_read: Annotated[ReadingPairs, READING] = None,
    samples_read: Annotated[ReadingPairs, READING] = None,
    private: bool = False,
    target: float = 0.01,
    seed: Annotated[int, COPIES] = 0,
    first_seed: Annotated[int, MODEL] = 0,
    set_: Annotated[Settings, MODEL] = None,
    opening: ModelOptions = NO_MODEL_OPTIONS,
    text: TextModelOptions = NO_TEXT_MODEL_OPTIONS,
    title: str = "Does this model leak its training data?",
    batch_size: Annotated[int, MACHINE] = 64,
    device: Annotated[str | None, MACHINE] = None,
    executor: Annotated[Executor, MACHINE] = None,
) -> None:
    """Say whether a model, or a set of its samples, copies training images: copies found, none found, or cannot tell.

    Exit codes: 0 none found, 3 copies found, 4 cannot tell; 2 bad input, 1 failure. Interrupt with Ctrl-C: the same
    command resumes.

    Example: diffmem audit --train cifar10.zip --heldout cifar10-test.zip --samples generated/ --out audit

    Example: diffmem audit --train cifar10.zip --heldout cifar10-test.zip --model network-snapshot.pkl --out audit

    Example: diffmem audit --train cifar10.zip --heldout cifar10-test.zip --model step-100.pt step-200.pt --out audit

    Example: diffmem audit --train dataset/ --samples generated/ --prompts generated/metadata.jsonl --out audit

    Example: diffmem audit --model sd15/ --lora my-lora.safetensors --train dataset/ --heldout more/ --out audit

    Example: diffmem audit --model my-finetune/ --base sd15/ --train dataset/ --heldout more/ --out audit

    Example: diffmem audit --self-test

    Args:
        train: The whole training set: anything that `diffmem data build` reads. Without it, the model alone is examined.
        heldout: Images of the same source that were not trained on: for the null rate, and membership
            inference needs them. Without them, training images are compared with each other.
        samples: Generated images: a folder, .zip or .npz.
        prompts: Prompts of the samples of a text-to-image model: .csv or .jsonl with file_name and prompt (also group and seed), or
            .txt with a line for each sample. Copies are then counted by prompt, and by kind of prompt. Or, with --controls, the
            prompts for a text-to-image model whose training images are not at hand.
        controls: With --prompts and --model, without --train: prompts of the same kind that were not trained on. Scores then rank the
            prompts; the verdict is cannot tell.
        base_samples: With --prompts: images that the base model made of the same prompts and seeds, under the same file names.
        model: In place of samples: a run's folder or snapshot, or a checkpoint, pickle or folder of another trainer. Nothing in it
            is executed. A folder of Stable Diffusion 1.x, 2.x or SDXL is sampled with
            the captions of --train and --heldout. Of several, each is audited in a folder of its own, and one page compares
            them; the worst verdict is the exit code. When it is resumed, finished ones are audited again.
        num: Samples to generate from the model.
        out: Folder for the report: audit.html, audit.json, matches.csv and pictures.
        self_test: Check that the audit works: mix known fractions of copies into real images (--train, or the
            bundled digits) and measure what is found.
        text_test: With --self-test: audit a LoRA of a small text-to-image model that saw emoji 64, 16 and 4 times and once, like any
            other. --out then keeps the model, the LoRAs of ten epochs, the emoji and the report.
        transforms: Also find samples that match after changes, joined by +: flip, shift1 to shiftN, brightnessN; for
            example flip+shift2.
        features: Also compare features: inception, or a TorchScript network PATH[:PREPARATION[:THRESHOLD]] with the
            preparation uint8, sscd, sscd-320 or dcr; may be repeated.
        canaries: File of canaries written by `diffmem data build --canaries`: report their exposure.
        deduplicated: Near-copies were removed from the training set: use only held-out images for
            the null rate. Set by itself where diffmem removed them.
        train_read: How the files of --train become pixels, key=value: alpha=white|black|drop, exif=ignore|apply,
            white=LEVEL, pages=first|all|refuse, fit=crop|stretch|pad with resolution=SIDE, split=FOLDER; may be repeated.
        heldout_read: The same for --heldout.
        samples_read: The same for --samples.
        private: Keep every image and file name out of the report: indices and hashes only.
        target: Rate of copies that a clean audit must exclude at 95% confidence.
        seed: Seed of all random choices except the samples.
        first_seed: Seed of the first sample.
        set_: Change a setting of the sampler, key=value, for example steps=40; may be repeated.
        title: Heading of the report.
        batch_size: Images at a time.
        device: cpu, cuda or cuda:N; by default a GPU where there is one.
        executor: Sample and search in pieces elsewhere, with the same result: local (processes of this machine), or a YAML file of the
            settings under `executor:` of a study's recipe, for example of a cluster. --out and the files lie on a disk that all see.
    """

    device = choose_device(device)
    if self_test:
        for name, path in (
            ("--heldout", heldout),
            ("--samples", samples),
            ("--model", model),
            ("--executor", executor),
        ):
            if path is not None:
                raise UserError(
                    f"{name} cannot be combined with --self-test, which uses only the images of --train."
                )
        if text_test and (train is not None or transforms is not None):
            raise UserError(
                "--text tests on emoji that come with diffmem; leave --train and --transforms out."
            )
        with locked_folder(out):
            if text_test:
                failed = _text_self_test(seed, device, out)
            else:
                failed = _self_test("digits" if train is None else train, transforms, seed, device, out)
        if failed:
            raise SystemExit(1)
        return
    if text_test:
        raise UserError("--text belongs to --self-test.")
    if out is None:
        raise UserError("Name a folder for the report with --out.")
    if (samples is None) == (model is None):
        raise UserError("Give either generated images with --samples, or a model with --model.")
    if model is None:
        text.refuse("samples are taken as they are")
        for name, given in (("--set", set_), ("--first-seed", first_seed)):
            if given:
                raise UserError(f"{name} is for a model; samples are taken as they are.")
        opening.refuse("samples are taken as they are")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out names a folder for the report.")
    check_outside((train, heldout, samples, base_samples), out)
    with locked_folder(out):
        from diffmem.api.auditing import audit as run_audit
        from diffmem.api.inputs import as_images
        from diffmem.auditing.prompts.report.detectors import detectors_table
        from diffmem.auditing.prompts.report.part import prompts_table
        from diffmem.auditing.prompts.verdict import captions_text
        from diffmem.auditing.report.text import print_audit
        from diffmem.auditing.several import folders_of
        from diffmem.console import console
        from diffmem.data import parse_reading
        from diffmem.models import open_model, open_text_model
        from diffmem.models.pretrained.text_folder import is_text_folder
        from diffmem.sampling import SamplerConfig, discard_shards
        from diffmem.settings import load_recipe

        files = {"training": ("train", train, train_read), "heldout": ("heldout", heldout, heldout_read),
                 "samples": ("samples", samples, samples_read)}  # fmt: skip
        for name, source, pairs in files.values():
            if pairs and source is None:
                raise UserError(f"--{name}-read says how the files of --{name} are read; name them.")

        base_shards = out / "base.shards"

        def audited(one: Path | None, lora: str | None, folder: Path) -> Audit:
            shards = folder / "samples.shards"
            done = run_audit(
                train, samples=samples, model=one, heldout=heldout, shards=shards, device=device,
                readings={role: parse_reading(pairs or []) for role, (_, _, pairs) in files.items()},
                report=lambda line: print(line, file=sys.stderr), canaries=canaries, deduplicated=deduplicated, num=num,
                sampler=load_recipe(SamplerConfig, None, set_ or []), first_seed=first_seed, transforms=transforms,
                features=features, target=target, private=private, seed=seed, title=title, batch_size=batch_size,
                opening=opening.details(), executor=executor, prompts=prompts, controls=controls, base_samples=base_samples, lora=lora,
                base_shards=base_shards, **text.details(),
            )  # fmt: skip
            if world().is_main:
                # First: what hours of work found is printed also where the disk is full.
                print_audit(done.result)
                if done.prompts is not None:
                    console(soft_wrap=True).print(prompts_table(done.prompts.record))
                    if done.prompts.record.captions is not None:
                        print(captions_text(done.prompts.record.captions))
                if done.detected is not None:
                    print(done.detected.record.sentence)
                    console(soft_wrap=True).print(detectors_table(done.detected.record))
                print(f"report: {done.save(folder)}", flush=True)
            world().wait()
            discard_shards(shards)
            return done

        loras: list[str | None] = [None] if text.lora is None else [*text.lora]
        if model is None or len(model) * len(loras) == 1:
            code = audited(model[0] if model else None, loras[0], out).verdict.exit_code
        else:
            if len(model) > 1 and len(loras) > 1:
                raise UserError("Give several models or several LoRAs of one model, not both.")
            shape = None if train is None else as_images(train, parse_reading(train_read or [])).shape
            jobs = [(one, lora) for one in model for lora in loras]
            for one, lora in jobs:  # what does not open is said before hours of work
                if lora is not None or is_text_folder(one):
                    open_text_model(one, ("",), lora=lora, size=opening.details()["resolution"], device="cpu")
                else:
                    open_model(one, shape, device="cpu", **opening.details())
            named = model if len(model) > 1 else [Path(lora) for lora in loras if lora is not None]
            code = _compare(jobs, folders_of(named, private), out, audited, private)
        discard_shards(base_shards)
    if code:
        raise SystemExit(code)


def _compare(
    models: list[tuple[Path, str | None]],
    folders: list[str],
    out: Path,
    audited: Callable[[Path, str | None, Path], Audit],
    private: bool,
) -> int:
    """Audit several models, write the page that compares them, and return the exit code of the worst verdict."""
    from diffmem.auditing.prompts.records import rates_of
    from diffmem.auditing.report.several import several_table, write_several
    from diffmem.auditing.several import several
    from diffmem.console import console

    audits, rates, captions = [], [], []
    for number, ((path, lora), folder) in enumerate(zip(models, folders, strict=True), 1):
        if world().is_main:
            named = "" if private else f": {path if lora is None else lora}"
            print(f"model {number} of {len(models)}{named}", file=sys.stderr)
        done = audited(path, lora, out / folder)
        audits.append(done.result)
        rates.append({} if done.prompts is None else rates_of(done.prompts.record))
        captions.append(None if done.prompts is None else done.prompts.record.captions)
        del done  # its images
    found = several(folders, audits, rates, captions)
    if world().is_main:
        print(found.sentence)
        console(soft_wrap=True).print(several_table(found))
        print(f"report: {write_several(found, out)}", flush=True)
    return found.exit_code


def _text_self_test(seed: int, device: str, out: Path | None) -> int:
    from diffmem.api.text_selftest import text_self_test

    found = text_self_test(out, seed=seed, device=device, report=lambda line: print(line, file=sys.stderr))
    print(found.audit)
    print(found)
    print("passed" if found.passed else "failed")
    if out is not None:
        print(f"report: {out / 'audit' / 'audit.html'}")
    return 0 if found.passed else 1


def _self_test(source: str, transforms: str | None, seed: int, device: str, out: Path | None) -> int:
    from diffmem.api.inputs import as_images
    from diffmem.auditing import parse_transforms, self_test
    from diffmem.auditing.report.selftest import print_self_test, write_self_test

    changes = parse_transforms("flip+shift1" if transforms is None else transforms)
    images = as_images(source)
    with show_progress("Testing") as progress:
        found = self_test(images, seed=seed, transforms=changes, device=device, progress=progress)
    print_self_test(found)
    if out is not None:
        for path in write_self_test(found, out):
            print(path)
    return 0 if found.passed else 1
