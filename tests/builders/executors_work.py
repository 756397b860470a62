"""What the tasks of these tests do; named in them as 'executors_work:name'."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from diffmem.distributed import world
from diffmem.errors import DiffmemError, UserError
from diffmem.executors.pool import Task


def task(key, name, content=None, processes=1, **more):
    return Task(key, f"executors_work:{name}", {**(content or {}), **more}, processes)


def write(content, progress, warn):
    """Write who did it, with what environment."""
    progress(1, 2, "half way")
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PARSL_WORKER_RANK")
    found = {"pid": os.getpid(), "processes": world().size, **{name: os.environ.get(name) for name in names}}
    if world().is_main:
        Path(content["file"]).write_text(json.dumps(found))
    warn(f"wrote {Path(content['file']).name}")
    if "companions" in content:  # who must work at the same time
        folder = Path(content["file"]).parent
        wait_for(lambda: len(list(folder.iterdir())) >= content["companions"])


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def wait_for_another(content):
    """Wait for the file that another task writes when it has begun, if one is named."""
    if "after" in content:
        wait_for(Path(content["after"]).exists)


def refuse(content, progress, warn):
    wait_for_another(content)
    raise UserError(f"The value {content['value']} is bad; choose another.")


class OddError(UserError):
    """An error that cannot be made again from its words."""

    def __init__(self, value, remedy):
        super().__init__(f"The value {value} is bad; {remedy}.")


def refuse_oddly(content, progress, warn):
    raise OddError(content["value"], "choose another")


def fail_at(content, progress, warn):
    """Fail in one of the processes; the others wait for it."""
    if world().rank == content["rank"]:
        raise DiffmemError("The disk of this machine burns.")
    world().wait()


def die_at(content, progress, warn):
    """Kill one of the processes; the others wait for it."""
    if world().rank == content["rank"]:
        os.kill(os.getpid(), signal.SIGKILL)
    world().wait()


def stumble(content, progress, warn):
    wait_for_another(content)
    raise ValueError("nobody thought of this")


def die(content, progress, warn):
    """Die the first time; done again, finish."""
    file = Path(content["file"])
    if not file.exists():
        file.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)


def leave(content, progress, warn):
    os._exit(content["code"])


def save_when_stopped(content, progress, warn):
    """Work until interrupted; then save, which takes a moment. Done again after that, finish."""
    begun, saved = Path(content["begun"]), Path(content["saved"])
    if saved.exists():
        return
    try:
        begun.write_text(str(os.getpid()))  # from here on it may be stopped
        for _ in range(6000):
            progress(1, 2)
            time.sleep(0.05)
    except KeyboardInterrupt:
        time.sleep(0.3)
        saved.write_text(str(world().rank))
        raise


def talk(content, progress, warn):
    """Say more than a pipe holds; when stopped, save what was said."""
    said = 0
    try:
        Path(content["begun"]).write_text(str(os.getpid()))
        while True:
            warn("x" * 10_000)
            said += 1
    except KeyboardInterrupt:
        Path(content["saved"]).write_text(str(said))
        raise


def train_until_stopped(content, progress, warn):
    """Stop as training does: between two steps, all processes after the same one."""
    from diffmem.interrupt import StopRequest

    with StopRequest() as stop:
        for step in range(10_000):
            if step == 1:
                Path(content["begun"]).write_text(str(os.getpid()))
            time.sleep(0.02)
            try:
                stop.honour_together()
            except KeyboardInterrupt:
                Path(content["saved"]).with_suffix(f".{world().rank}").write_text(str(step))
                raise


def be_deaf(content, progress, warn):
    """Do not hear the request to stop."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(content["begun"]).write_text(str(os.getpid()))
    time.sleep(120)


def files(folder, name="one"):
    return {"begun": str(folder / f"{name}.begun"), "saved": str(folder / f"{name}.saved")}


def number_in(file):
    """Wait for a file with a number and return it."""
    file = Path(file)
    wait_for(lambda: file.exists() and file.read_text())
    return int(file.read_text())


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ends(pool, count, seconds=120):
    """Poll until so many tasks have ended; return their ends by key, and everything else that was told."""
    found, others, limit = {}, [], time.monotonic() + seconds
    while len(found) < count:
        assert time.monotonic() < limit, (found, others)
        for event in pool.poll(1):
            if event.kind in ("progress", "warning"):
                others.append(event)
            else:
                assert event.key not in found
                found[event.key] = event
    return found, others
