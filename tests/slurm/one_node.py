"""A SLURM of one node on the loopback device, in a folder of its own, for tests: `python tests/slurm/one_node.py start|stop FOLDER`.

Needs root, and Debian or Ubuntu where the programs are not installed yet. Nothing outside the folder is written but the packages:
commands find it by SLURM_CONF, which `start` prints. Other SLURMs on the machine are left alone.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
NODE = "node"
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=5,bf_interval=5
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=5
MinJobAge={min_job_age}
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=debug Nodes={node} Default=YES MaxTime=INFINITE State=UP
"""


class CannotRunError(Exception):
    """Why there can be no SLURM here."""


def install() -> None:
    """Install what is missing, without starting the packages' own services.

    Raises:
        CannotRunError: It may not, or cannot.
    """
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise CannotRunError(f"{', '.join(missing)} are not installed, and there is no apt-get")
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        for words in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
            done = subprocess.run(
                ["apt-get", "-qq", *words],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise CannotRunError(f"apt-get {words[0]} fails: {done.stderr.strip()[-300:]}")
    finally:
        if ours:
            policy.unlink()


def configure(folder: Path, min_job_age: int = 300) -> None:
    """Write the configuration; of a SLURM that runs, make it read it again.

    Args:
        min_job_age: Seconds after which SLURM forgets a job that has ended.
    """
    path = folder / "slurm.conf"
    ports = [folder / "port", folder / "node_port"]
    if not path.exists():
        for file in ports:
            file.write_text(str(_free_port()))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    text = CONFIGURATION.format(
        host=socket.gethostname().partition(".")[0],
        folder=folder,
        node=NODE,
        port=ports[0].read_text(),
        node_port=ports[1].read_text(),
        cpus=os.cpu_count(),
        memory=memory * 9 // 10,
        min_job_age=min_job_age,
    )
    again = path.exists()
    path.write_text(text)
    if again:
        command(folder, "scontrol", "reconfigure")


def start(folder: Path) -> None:
    """Install, configure and start munged, slurmctld and slurmd, and wait until the node takes jobs.

    Raises:
        CannotRunError: There can be no SLURM here.
    """
    if os.geteuid() != 0:
        raise CannotRunError("SLURM on loopback is installed and started by root")
    install()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "munge").chmod(0o700)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    configure(folder)
    munged = [
        "munged", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
        f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge/seed",
    ]  # fmt: skip
    conf = str(folder / "slurm.conf")
    for words in (munged, ["slurmctld", "-f", conf], ["slurmd", "-f", conf, "-N", NODE]):
        done = subprocess.run(words, capture_output=True, text=True, env=environment(folder))
        if done.returncode:
            stop(folder)
            raise CannotRunError(f"{words[0]} does not start: {done.stderr.strip()[-300:]}")
    until = time.monotonic() + 60
    while command(folder, "sinfo", "-h", "-N", "-o", "%t") != "idle":
        if time.monotonic() > until:
            stop(folder)
            raise CannotRunError("the node does not become idle; see slurmctld.log and slurmd.log")
        time.sleep(0.5)


def stop(folder: Path) -> None:
    """End the daemons that were started in this folder, and the jobs."""
    if (folder / "slurmctld.pid").exists():
        command(folder, "scancel", f"--user={os.geteuid()}")
        time.sleep(1)
    for name in ("slurmd", "slurmctld", "munged"):
        file = folder / f"{name}.pid"
        try:
            pid = int(file.read_text())
            if Path(f"/proc/{pid}/comm").read_text().strip() != name:
                continue
            os.kill(pid, signal.SIGTERM)
            for _ in range(100):
                if not Path(f"/proc/{pid}").exists():
                    break
                time.sleep(0.1)
        except (OSError, ValueError):
            continue
        file.unlink(missing_ok=True)


def command(folder: Path, *words: str) -> str:
    """Return what a command of this SLURM prints."""
    return subprocess.run(words, capture_output=True, text=True, env=environment(folder)).stdout.strip()


def environment(folder: Path) -> dict[str, str]:
    """Return the variables by which commands find this SLURM."""
    return {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    verb, place = sys.argv[1], Path(sys.argv[2]).resolve()
    try:
        {"start": start, "stop": stop}[verb](place)
    except CannotRunError as error:
        sys.exit(f"No SLURM: {error}.")
    if verb == "start":
        print(f"export SLURM_CONF={place / 'slurm.conf'}")
