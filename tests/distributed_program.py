"""What the processes of `test_distributed.py` run under torchrun: the command line, with a command of the test's.

Each process has folders of its own, as on machines without a common disk.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from training_builders import MODEL, denoiser, train, trainer

from diffmem import __main__ as command_line
from diffmem.data import ImageSet
from diffmem.distributed import world
from diffmem.errors import DiffmemError, UserError
from diffmem.memorization import nearest_neighbours
from diffmem.optimum.optimum import Optimum
from diffmem.sampling import SamplerConfig, generate_resumable
from diffmem.training import loop

RNG = np.random.default_rng(0)
REFERENCES = RNG.integers(0, 256, (40, 1, 4, 4), dtype=np.uint8)
QUERIES = RNG.integers(0, 256, (11, 1, 4, 4), dtype=np.uint8)
QUERY_COUNTS = [11, 2, 1, 0]
SAMPLER = SamplerConfig(steps=3, solver="euler", S_churn=5.0)
SAMPLES, BATCH = 15, 2


def generated(folder):
    calls = []
    made = denoiser().eval()
    made.register_forward_pre_hook(lambda *details: calls.append(1))
    images = generate_resumable(made, range(SAMPLES), SAMPLER, folder, "tag", batch_size=BATCH)
    return images, len(calls)


def shares_of_an_optimum():
    """Posterior means and weights where each process holds a share of the images: class 1 lies with the last one alone."""
    here = world()
    labels = np.array([0] * 30 + [1] * 10)
    first, last = (len(REFERENCES) * at // here.size for at in (here.rank, here.rank + 1))
    share = ImageSet(REFERENCES[first:last], labels[first:last], tuple(map(str, range(first, last))))
    optimum = Optimum(share, conditional=True, shared=True)
    clean = torch.from_numpy(QUERIES / 127.5 - 1)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = torch.tensor([-1, 0, 1] * 3 + [-1, 0])
    found = []
    for sigma in (80.0, 1.0, 0.1, 0.002):
        found.append(optimum(clean + sigma * noise, sigma, wanted).numpy())
    posterior = optimum.posterior(clean + noise, 1.0, wanted)
    return np.stack(found), torch.stack([posterior.entropy, posterior.nearest_weight]).numpy()


def everything(folder):
    """One of each: a training, images, images again from shards, neighbours, words to one another."""
    here, found = world(), {}
    measured = []
    one = trainer()
    train(one, MODEL, folder / "run", "tag", on_snapshot=lambda current: measured.append(current.seen))
    found["measured"] = np.array(measured)
    found["weights"], found["ema"] = one.state()["weights"].numpy(), one.state()["ema"].numpy()
    images, found["calls"] = generated(folder / "shards")
    found["images"], found["labels"], found["seeds"] = images.images, images.labels, images.seeds
    again, found["calls_again"] = generated(folder / "shards")
    assert np.array_equal(again.images, images.images)
    for count in QUERY_COUNTS:
        near = nearest_neighbours(QUERIES[:count], REFERENCES, 3)
        found[f"distances{count}"], found[f"indices{count}"] = near.distances, near.indices
    found["means"], found["weights_of_optimum"] = shares_of_an_optimum()
    assert here.gather("x" * here.rank) == ["x" * rank for rank in range(here.size)]
    assert here.broadcast(f"from {here.rank}") == "from 0"
    computed: list[int] = []
    assert here.from_main(lambda: computed.append(here.rank) or here.rank + 7) == 7
    assert computed == [0][: here.is_main]  # what another process has on its disk does not count
    assert here.any(here.rank == here.size - 1)
    assert not here.any(False)
    if here.size > 1:
        try:
            trainer(batch_size=1)
        except UserError as error:
            found["refusal"] = str(error)
    np.savez(folder / "found.npz", **found)
    print(f"process {here.rank} of {here.size}")
    if os.environ.get("LAST_WORDS") and here.rank == 1:
        raise DiffmemError(os.environ["LAST_WORDS"])


def disturbed(folder):
    """A training in which a process comes to grief where the environment says."""
    loop._SECONDS_BETWEEN_STATES = 0.0
    how, rank, at = os.environ["DISTURB"].split()

    def tell(done, total, note=""):
        print("seen", int(done), flush=True)
        time.sleep(0.03)
        if how == "kill" and world().rank == int(rank) and done == int(at):
            os.kill(os.getpid(), signal.SIGKILL)

    train(trainer(), MODEL, folder / "run", "tag", progress=tell)


def main():
    root, action = sys.argv[1:3]
    folder = Path(root) / f"rank{os.environ.get('RANK', '0')}"
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    command_line._call = lambda words: {"everything": everything, "disturbed": disturbed}[action](folder)
    command_line.main([])


if __name__ == "__main__":
    main()
