import json
import re
import shutil
import sys
import types
from pathlib import Path

import pytest
from executors_work import ends, files, is_running, number_in, task, wait_for
from parsl.launchers import SimpleLauncher, SrunLauncher

from diffmem.errors import UserError
from diffmem.executors.config import ExecutorConfig
from diffmem.executors.jobs import JobBook
from diffmem.executors.open import open_pool
from diffmem.executors.parsl_presets import capacity
from diffmem.executors.parsl_presets import parsl_config as config_of


def parsl_config(config, folder):
    return config_of(config, folder, JobBook(folder, config.kind, "study"))


RECORDED = Path(__file__).parent / "recorded"

# A scheduler that keeps the scripts and starts them on this machine, as SLURM would on another one.
SBATCH = """#!/bin/bash
cp "$1" {place}/script
setsid bash "$1" >{place}/out 2>{place}/err </dev/null &
echo $! > {place}/job
echo "Submitted batch job 4711"
"""
SQUEUE = """#!/bin/bash
kill -0 $(cat {place}/job) && echo "4711|RUNNING|None|study.1"
"""
SCANCEL = """#!/bin/bash
echo "$@" > {place}/cancelled
kill -- -$(cat {place}/job)
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder in which a scheduler of SLURM's names keeps what it is given."""
    place = tmp_path / "slurm"
    place.mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL)):
        (place / name).write_text(text.format(place=place))
        (place / name).chmod(0o755)
    (place / "sacct").write_text("#!/bin/bash\nexit 1\n")
    (place / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    return place


def masked(script, folder):
    """Return a script without what differs from run to run and from machine to machine."""
    script = script.replace(str(folder), "FOLDER").replace(str(Path(sys.executable).parent), "BIN")
    script = re.sub(r"--port=\d+", "--port=PORT", script)
    script = re.sub(r"study\.\d+\.\d+", "study.TIME", script)
    return "".join(f"{line.rstrip()}\n" for line in script.rstrip().splitlines())


def test_slurm_gets_the_recorded_script_and_its_job_does_tasks(tmp_path, slurm):
    config = ExecutorConfig(
        kind="slurm",
        partition="gpu",
        account="proj42",
        walltime="04:00:00",
        gpus_per_node=2,
        cores_per_node=2,
        memory_gb=16,
        worker_init="echo prepared",
        scheduler_options="#SBATCH --constraint=a100",
        address="127.0.0.1",
    )
    content = files(tmp_path)
    study = tmp_path / "study"
    with open_pool(config, device="cuda", folder=study) as pool:
        assert pool.slots == 2
        pool.submit(task("one", "write", file=str(tmp_path / "one")))
        pool.submit(task("long", "save_when_stopped", content))
        found, _ = ends(pool, 1)
        assert found["one"].kind == "finished"
        pid = number_in(content["begun"])
    assert Path(content["saved"]).exists()
    assert json.loads((tmp_path / "one").read_text())["CUDA_VISIBLE_DEVICES"] in ("0", "1")
    assert (slurm / "cancelled").read_text() == "4711\n"
    wait_for(lambda: not is_running(pid))
    assert masked((slurm / "script").read_text(), study) == (RECORDED / "slurm.sh").read_text()
    assert (slurm / "out").read_text().startswith("prepared\n")


def preset(**settings):
    return ExecutorConfig.model_validate({"address": "10.0.0.1", **settings})


def test_slurm_jobs_of_several_machines_start_their_workers_by_srun(tmp_path, slurm):
    config = parsl_config(
        preset(kind="slurm", walltime="01:00:00", nodes=3, gpus_per_node=4, runs_per_gpu=2, most_blocks=5),
        tmp_path,
    )
    (executor,) = config.executors
    provider = executor.provider
    assert isinstance(provider.launcher, SrunLauncher)
    assert provider.nodes_per_block == 3
    assert "#SBATCH --exclusive" in provider.scheduler_options  # no number of cores: whole machines
    assert executor.max_workers_per_node == 8
    assert capacity(config) == 8 * 3 * 5
    assert executor.drain_period == 3600 - 300 - 30
    assert (config.run_dir, config.retries, config.usage_tracking) == (str(tmp_path), 0, 0)


def test_runs_of_several_processes_share_a_machine_by_their_gpus_or_cores(tmp_path, slurm):
    gpus = preset(kind="slurm", walltime="01:00:00", gpus_per_node=8, processes_per_run=4)
    cores = preset(kind="slurm", walltime="01:00:00", cores_per_node=10, processes_per_run=4)
    found = [parsl_config(config, tmp_path).executors[0] for config in (gpus, cores)]
    assert [each.max_workers_per_node for each in found] == [2, 2]
    assert [each.workers_per_node for each in found] == [2, 2]


def test_more_runs_than_cores_can_share_the_gpus(tmp_path, slurm):
    config = preset(kind="slurm", walltime="01:00:00", gpus_per_node=2, runs_per_gpu=4, cores_per_node=4)
    assert parsl_config(config, tmp_path).executors[0].workers_per_node == 8


def test_pbs_asks_for_cores_gpus_and_memory_in_one_selection(tmp_path):
    config = parsl_config(
        preset(
            kind="pbs",
            partition="workq",
            account="proj42",
            walltime="02:30:00",
            cores_per_node=16,
            gpus_per_node=4,
            memory_gb=64,
            most_blocks=3,
            minutes_to_save=10,
            worker_init="module load cuda",
            scheduler_options="#PBS -l place=scatter",
        ),
        tmp_path,
    )
    (executor,) = config.executors
    provider = executor.provider
    assert (provider.queue, provider.account, provider.walltime) == ("workq", "proj42", "02:30:00")
    assert (provider.cpus_per_node, provider.select_options) == (16, "ngpus=4:mem=64gb")
    assert (provider.nodes_per_block, provider.init_blocks, provider.max_blocks) == (1, 0, 3)
    assert isinstance(provider.launcher, SimpleLauncher)
    assert provider.scheduler_options == "#PBS -l place=scatter"
    first, second, last = provider.worker_init.splitlines()
    assert first == f'export PATH={Path(sys.executable).parent}:"$PATH"'
    assert second == "module load cuda"
    assert last == "export DIFFMEM_ENDS=$(( $(date +%s) + 9000 ))"
    assert executor.max_workers_per_node == 4
    assert executor.drain_period == 9000 - 600 - 30
    assert executor.address == "10.0.0.1"


KUBERNETES = {"kind": "kubernetes", "image": "registry/diffmem:1", "volumes": [["data", "/data"]]}
POD = {**KUBERNETES, "cores_per_node": 8, "memory_gb": 32}


def test_kubernetes_without_its_package_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(UserError, match="pip install kubernetes"):
        parsl_config(preset(**POD), tmp_path)


@pytest.fixture
def kubernetes(monkeypatch):
    """The parts of the package 'kubernetes' that Parsl calls to make a provider, and what its configuration says."""
    from parsl.providers.kubernetes import kube

    class ConfigException(Exception):  # noqa: N818 - the package's name
        pass

    def nothing():
        raise ConfigException("no configuration found")

    config = types.SimpleNamespace(
        config_exception=types.SimpleNamespace(ConfigException=ConfigException),
        load_kube_config=nothing,
        load_incluster_config=nothing,
    )
    module = types.ModuleType("kubernetes")
    module.__spec__ = types.SimpleNamespace(name="kubernetes")
    monkeypatch.setitem(sys.modules, "kubernetes", module)
    monkeypatch.setattr(kube, "_kubernetes_enabled", True)
    monkeypatch.setattr(kube, "config", config, raising=False)
    monkeypatch.setattr(kube, "client", types.SimpleNamespace(CoreV1Api=object), raising=False)
    return config


def test_kubernetes_without_a_cluster_is_refused(tmp_path, kubernetes):
    with pytest.raises(UserError, match="kubectl must work"):
        parsl_config(preset(**POD), tmp_path)


def test_kubernetes_pods_get_cores_memory_gpus_and_volumes(tmp_path, kubernetes):
    kubernetes.load_kube_config = lambda: None
    (executor,) = parsl_config(
        preset(**POD, gpus_per_node=2, namespace="lab", most_blocks=4), tmp_path
    ).executors
    provider = executor.provider
    assert (provider.image, provider.namespace) == ("registry/diffmem:1", "lab")
    assert (provider.init_cpu, provider.max_cpu, provider.init_mem, provider.max_mem) == (
        8,
        8,
        "32Gi",
        "32Gi",
    )
    assert provider.extra_limits == {"nvidia.com/gpu": "2"}
    assert provider.persistent_volumes == [("data", "/data")]
    assert (provider.init_blocks, provider.max_blocks) == (0, 4)
    assert provider.worker_init == "export PARSL_CORES=8"
    assert executor.max_workers_per_node == 2
    assert executor.drain_period is None


@pytest.mark.parametrize("address", [None, "127.0.1.1"])
def test_a_machine_that_others_cannot_reach_by_its_name_must_be_given_an_address(
    tmp_path, slurm, monkeypatch, address
):
    def by_hostname():
        if address is None:
            raise OSError("Name or service not known")
        return address

    monkeypatch.setattr("diffmem.executors.parsl_presets.address_by_hostname", by_hostname)
    with pytest.raises(UserError, match=r"give executor\.address"):
        parsl_config(ExecutorConfig(kind="slurm", walltime="01:00:00", cores_per_node=4), tmp_path)
    given = ExecutorConfig(kind="slurm", walltime="01:00:00", cores_per_node=4, address="10.0.0.1")
    assert parsl_config(given, tmp_path).executors[0].address == "10.0.0.1"


def test_a_folder_that_scripts_cannot_name_is_refused(tmp_path):
    path = tmp_path / "cluster.py"
    path.write_text("config = 3")
    with pytest.raises(UserError, match=r"has a character in its path \(' '\)"):
        open_pool(ExecutorConfig(kind="parsl", path=str(path)), device="cpu", folder=tmp_path / "my study")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no such file"),
        ("1 / 0", "the file fails with ZeroDivisionError"),
        ("settings = 3", "must define `config`, a parsl.config.Config, not NoneType"),
        ("config = 3", "not int"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text, words):
    path = tmp_path / "cluster.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        open_pool(ExecutorConfig(kind="parsl", path=str(path)), device="cpu", folder=tmp_path)
    assert str(path) in str(caught.value)


def test_a_user_s_configuration_keeps_its_folder_and_is_not_retried(tmp_path):
    path = tmp_path / "cluster.py"
    path.write_text(
        "from parsl.config import Config\nfrom parsl.executors import ThreadPoolExecutor\n"
        "config = Config(executors=[ThreadPoolExecutor(max_threads=3)], run_dir='mine', retries=4)\n"
    )
    config = parsl_config(ExecutorConfig(kind="parsl", path=str(path)), tmp_path / "study")
    assert (config.run_dir, config.retries) == ("mine", 0)
    assert capacity(config) == 3


def test_a_scheduler_that_is_not_here_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("sbatch") is None
    with pytest.raises(UserError, match="no 'sbatch' on this machine"):
        open_pool(
            ExecutorConfig(kind="slurm", walltime="01:00:00", cores_per_node=4), device="cpu", folder=tmp_path
        )
