"""The entry points of the original study: what each passes on, and one of them carried out on one, two and two times one process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import diffmem

SCRIPTS = Path(__file__).parents[1] / "scripts"
FULL = "1,1,1,1,1,1,1,1,1"
NO_FIRST = "0,1,1,1,1,1,1,1,1"
CALLS = {
    "run_fig1_ab.sh": "fig1_ab --all-levels --out fig1_ab",
    "run_fig1_cd.sh 10000 fig1_c/size10000 200": "fig1_d --out fig1_c/size10000 --set size=10000 --set duration=200",
    "run_fig1_cd.sh 1000 fig1_d/size1000 2000": "fig1_d --out fig1_d/size1000 --set size=1000 --set duration=2000",
    # trap 2: the original's script read its fourth argument into one name and used another, which was empty
    "run_fig2_dim.sh 5000 32 fig2_a/size5000_res32 16": (
        "fig2_dim --out fig2_a/size5000_res32 --set size=5000 --set resolution=32 --set attention=16"
    ),
    "run_fig2_dim.sh 5000 8 fig2_a/size5000_res8 4": (
        "fig2_dim --out fig2_a/size5000_res8 --set size=5000 --set resolution=8 --set attention=4"
    ),
    "run_fig2_inter.sh 2000 5 fig2_b/size2000_class5": (
        "fig2_inter --out fig2_b/size2000_class5 --set size=2000 --set classes=5"
    ),
    "run_fig2_intra.sh 2000 0.5 fig2_c/size2000_alpha0.5": (
        "fig2_intra --out fig2_c/size2000_alpha0.5 --set size=2000 --set alpha=0.5"
    ),
    "run_fig3_model.sh 2000 fig3/size2000_2_128_positional 2 128 positional": (
        "fig3_width --out fig3/size2000_2_128_positional --set size=2000 --set blocks=2 --set channels=128"
        " --set embedding=positional"
    ),
    "run_fig3_model.sh 1000 fig3/f 4 128 fourier": (
        "fig3_width --out fig3/f --set size=1000 --set blocks=4 --set channels=128 --set embedding=fourier"
    ),
    f"run_fig4_skip.sh 1000 fig4/a vp ddpmpp positional {FULL}": (
        f"fig4_ddpmpp --out fig4/a --set size=1000 --set precond=vp --set arch=ddpmpp --set embedding=positional"
        f" --set mask={FULL}"
    ),
    f"run_fig4_skip.sh 1000 fig4/b ve ncsnpp fourier {NO_FIRST}": (
        f"fig4_ncsnpp --out fig4/b --set size=1000 --set precond=ve --set arch=ncsnpp --set embedding=fourier"
        f" --set mask={NO_FIRST}"
    ),
    "run_table1_2.sh 2000 tbl1/size2000_batch256 256 1e-4 0.0": (
        "table1 --out tbl1/size2000_batch256 --set size=2000 --set batch=256 --set rate=1e-4 --set decay=0.0"
    ),
    "run_table1_2.sh 2000 tbl2/x 512 2e-4 1e-4": (
        "table1 --out tbl2/x --set size=2000 --set batch=512 --set rate=2e-4 --set decay=1e-4"
    ),
    "run_table3.sh 2000 tbl3/size2000_ema0.999 0.999": (
        "table3 --out tbl3/size2000_ema0.999 --set size=2000 --set ema=0.999"
    ),
    "run_fig5_cond.sh 2000 fig5/size2000_true_cond": (
        "fig5_labels --out fig5/size2000_true_cond --set size=2000 --set labels=true"
    ),
    "run_fig5_random.sh 2000 50 fig5/size2000_random_cond50": (
        "fig5_classes --out fig5/size2000_random_cond50 --set size=2000 --set labels=random --set classes=50"
    ),
    "run_fig5_unique.sh 2000 fig5/size2000_unique": "fig5_unique --out fig5/size2000_unique --set size=2000",
    "run_fig5_edm.sh fig5/size50k_edm_unique": "fig5_edm --out fig5/size50k_edm_unique",
}


def environment(**more):
    cleared = (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
        "NPROC_PER_NODE",
        "DIFFMEM_SCALE",
    )
    kept = {key: value for key, value in os.environ.items() if key not in cleared}
    source = str(Path(diffmem.__file__).parents[1])
    return {**kept, "PYTHON": sys.executable, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", **more}


@pytest.fixture
def echo(tmp_path):
    """A stand-in for Python that prints its arguments."""
    path = tmp_path / "echo.sh"
    path.write_text('#!/bin/sh\necho "$@"\n')
    path.chmod(0o755)
    return path


def call(words, folder, **more):
    name, *arguments = words.split()
    return subprocess.run(
        ["bash", str(SCRIPTS / name), *arguments],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.parametrize("words", CALLS)
def test_a_script_passes_its_arguments_to_the_experiment(words, tmp_path, echo):
    done = call(words, tmp_path, PYTHON=str(echo))
    assert done.stdout.strip() == f"-m diffmem reproduce {CALLS[words]}"
    assert done.returncode == 0


def test_every_script_is_tested_executable_and_says_what_it_is():
    names = {path.name for path in SCRIPTS.glob("*.sh")}
    assert names - {"reproduce.sh"} == {words.split()[0] for words in CALLS}
    for path in SCRIPTS.glob("*.sh"):
        assert os.access(path, os.X_OK)
        assert path.read_text().splitlines()[1].startswith("# ")


@pytest.mark.parametrize("name", sorted({words.split()[0] for words in CALLS} - {"run_fig1_ab.sh"}))
def test_a_script_without_its_arguments_shows_its_usage(name, tmp_path, echo):
    done = call(name, tmp_path, PYTHON=str(echo))
    assert done.returncode == 2
    assert f"usage: {name}" in done.stderr


NODE = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "WORLD_SIZE": "4", "RANK": "2"}


@pytest.mark.parametrize(
    ("variables", "launcher"),
    [
        ({}, "-m diffmem"),
        ({"NPROC_PER_NODE": "3"}, "-m torch.distributed.run --standalone --nproc_per_node 3 -m diffmem"),
        (
            NODE,
            "-m torch.distributed.run --nproc_per_node 1 --nnodes 4 --node_rank 2 --master_addr 10.0.0.1"
            " --master_port 29500 -m diffmem",
        ),
        (
            {**NODE, "NPROC_PER_NODE": "8"},
            "-m torch.distributed.run --nproc_per_node 8 --nnodes 4 --node_rank 2 --master_addr 10.0.0.1"
            " --master_port 29500 -m diffmem",
        ),
        ({**NODE, "LOCAL_RANK": "0"}, "-m diffmem"),
    ],
)
def test_the_environment_says_how_many_processes_there_are(variables, launcher, tmp_path, echo):
    done = call("run_fig5_edm.sh out", tmp_path, PYTHON=str(echo), **variables)
    assert done.stdout.strip() == f"{launcher} reproduce fig5_edm --out out"


def rates(folder):
    from diffmem.paper.records import ExperimentResult

    result = ExperimentResult.model_validate_json((folder / "result.json").read_text())
    return [
        (run.size, one.memorized.count, one.mean_nearest_distance)
        for level in result.levels
        for run in level.runs
        for one in run.evaluations
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_script_runs_on_one_process_two_processes_and_two_nodes(tmp_path):
    words = "run_fig5_random.sh 1000 10 fig5/out"
    folders = [tmp_path / name for name in ("one", "two", "nodes")]
    for folder in folders:
        folder.mkdir()
    one = call(words, folders[0], DIFFMEM_SCALE="smoke")
    assert one.returncode == 0, one.stderr
    first = one.stdout.splitlines()[0]
    assert "digits of scikit-learn stand in" in " ".join(one.stdout.split())
    assert first.startswith("Figure 5")
    assert (folders[0] / "fig5/out/report.html").is_file()
    two = call(words, folders[1], DIFFMEM_SCALE="smoke", NPROC_PER_NODE="2")
    assert two.returncode == 0, two.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    nodes = [
        subprocess.Popen(
            ["bash", str(SCRIPTS / "run_fig5_random.sh"), "1000", "10", "fig5/out"],
            cwd=folders[2],
            env=environment(
                DIFFMEM_SCALE="smoke",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
                WORLD_SIZE="2",
                RANK=str(rank),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outs = [node.communicate(timeout=900) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outs
    assert outs[0][0].startswith("Figure 5")
    assert outs[1][0] == ""
    expected = rates(folders[0] / "fig5/out")
    for folder in folders[1:]:
        found = rates(folder / "fig5/out")
        assert [one[:2] for one in found] == [one[:2] for one in expected]
        assert [one[2] for one in found] == pytest.approx([one[2] for one in expected], rel=0.02)
