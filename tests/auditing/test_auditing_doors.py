"""A model that memorizes and one that does not, audited through every door: the verdict is right each time."""

import io
from functools import cache

import numpy as np
import pytest
from audit_tools import digits, image_set, make_request
from edm_pickle_builder import pickled, snapshot
from parameters import these
from PIL import Image

from diffmem.auditing import audit
from diffmem.data import open_images
from diffmem.models import ModelConfig, open_model
from diffmem.runs.run import Run
from diffmem.sampling import generate
from diffmem.training import TrainingConfig
from diffmem.training.config import EmaConfig, EvaluationConfig

pytestmark = pytest.mark.slow  # two networks are trained; the doors have tests of their own

NUMBER = 320
TRAINING, HELDOUT, FEW = digits(700, 800, 16, seed=4)
MODEL = ModelConfig(
    architecture="ddpmpp",
    preconditioning="edm",
    channels=12,
    multipliers=(1, 2),
    blocks=1,
    attention=(),
    dropout=0.0,
)
IN_EDMS_WORDS = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 0,
    "model_channels": 12,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
VERDICTS = {"memorizing": "copies found", "generalizing": "none found"}


def trained(images, epochs, batch, store):
    training = TrainingConfig(
        epochs=epochs,
        batch_size=batch,
        learning_rate=5e-3,
        warmup=20,
        p_mean=-0.8,
        p_std=0.9,
        ema=EmaConfig(mode="mode1", half_life=epochs / 20),
        evaluations=EvaluationConfig(count=1),
    )
    run = Run(image_set(images), None, MODEL, training, 0, store)
    run.fit()
    return run.folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of both runs, by kind: 16 digits for 500 epochs, 700 digits for 12."""
    store = tmp_path_factory.mktemp("runs")
    return {
        "memorizing": trained(FEW, 500, 16, store),
        "generalizing": trained(TRAINING, 12, 50, store),
    }


def training_set(kind):
    return image_set(FEW if kind == "memorizing" else TRAINING)


def judged(kind, tmp_path, **door):
    request = make_request(training=training_set(kind), heldout=image_set(HELDOUT), num=NUMBER, **door)
    return audit(request, tmp_path / "shards").result


@pytest.fixture(scope="module")
def through_the_run(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("audits")
    return {kind: judged(kind, folder / kind, model=open_model(runs[kind])) for kind in runs}


@pytest.fixture(scope="module")
def made(runs):
    """The images that a run generates, by kind."""
    return cache(lambda kind: generate(open_model(runs[kind]), range(NUMBER)).images)


@pytest.mark.parametrize("kind", VERDICTS)
def test_a_runs_folder(through_the_run, kind):
    result = through_the_run[kind]
    assert result.verdict.verdict == VERDICTS[kind]
    assert result.model.kind == "diffmem snapshot"


@pytest.mark.parametrize("kind", these(VERDICTS, "memorizing"))
def test_a_pickle_in_the_layout_of_edm_gives_the_same_samples_and_rates(
    through_the_run, runs, kind, tmp_path
):
    state = open_model(runs[kind]).state_dict()
    path = tmp_path / "network-snapshot-000100.pkl"
    path.write_bytes(pickled(snapshot(state, IN_EDMS_WORDS, source="raise SystemExit('this was executed')")))
    result = judged(kind, tmp_path, model=open_model(path))
    assert result.verdict == through_the_run[kind].verdict
    assert result.criteria == through_the_run[kind].criteria


@pytest.mark.parametrize("kind", these(VERDICTS, "memorizing"))
def test_a_folder_of_samples_gives_the_same_rates(through_the_run, made, kind, tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    for seed, image in enumerate(made(kind)):
        Image.fromarray(image[0]).save(folder / f"{seed:06d}.png")
    result = judged(kind, tmp_path, samples=open_images(folder))
    assert result.criteria == through_the_run[kind].criteria
    assert result.verdict == through_the_run[kind].verdict


def test_jpeg_samples_of_the_memorizing_model_are_still_found(made, tmp_path):
    def jpeg(image):
        stream = io.BytesIO()
        Image.fromarray(image[0]).save(stream, "JPEG", quality=75)
        return np.asarray(Image.open(stream))[None]

    samples = image_set(np.stack([jpeg(image) for image in made("memorizing")]))
    assert judged("memorizing", tmp_path, samples=samples).verdict.verdict == "copies found"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("kind", "steps"), [("memorizing", 3000), ("generalizing", 600)])
def test_a_folder_of_diffusers_that_was_trained_as_its_tutorial_does(kind, steps, tmp_path):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip(
        "diffusers", reason="diffusers is not installed: pip install 'diffmem[diffusers]'"
    )
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
    )
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(unet.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    clean = torch.from_numpy(training_set(kind).images).float() / 127.5 - 1
    for _ in range(steps):
        y = clean[torch.randint(len(clean), (64,))]
        noise, t = torch.randn_like(y), torch.randint(1000, (64,))
        loss = (unet(scheduler.add_noise(y, noise, t), t).sample - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    diffusers.DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(tmp_path / "model")
    opened = open_model(tmp_path / "model")
    assert opened.origin.path == tmp_path / "model"
    result = judged(kind, tmp_path, model=opened)
    assert result.verdict.verdict == VERDICTS[kind]
    assert result.model.kind == "diffusers folder"
