"""The benchmark of a GPU, in miniature on a CPU, and the baseline that it is compared with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import diffmem
from diffmem.memory import BatchTooLargeError
from diffmem.models import ModelConfig, build_denoiser

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def command(*words):
    source = str(Path(diffmem.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), *words],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def benchmarks():
    """The modules of the benchmark's folder, by name."""
    sys.path.append(str(BENCHMARKS))
    try:
        import baseline
        import gpu
        import gpu_page
        import gpu_projection
        import gpu_setting
    finally:
        sys.path.remove(str(BENCHMARKS))
    return SimpleNamespace(
        baseline=baseline, run=gpu, setting=gpu_setting, page=gpu_page, projection=gpu_projection
    )


@pytest.mark.slow
def test_in_miniature_every_part_is_measured_and_stands_on_the_page(tmp_path, benchmarks):
    command("--out", str(tmp_path), "--device", "cpu", "--miniature")
    content = json.loads((tmp_path / "results.json").read_text())
    page = (tmp_path / "page.html").read_text()
    parts = benchmarks.run.plan(benchmarks.setting.Setting("cpu", miniature=True))
    keys = [row.key for part in parts.values() for row in part]
    assert list(content["results"]) == keys
    assert {key: found for key, found in content["results"].items() if not found.get("value", 0) > 0} == {}
    assert content["state"].startswith("Finished.")
    assert all(f"<h2>{title}</h2>" in page for title in parts if "'" not in title)
    assert page.count("<img") == 1
    assert "its numbers mean nothing" in page
    assert len(content["projection"]) == 3
    assert all(hours > 0 for one in content["projection"] for hours in one["hours"].values())
    assert "all exact" in content["results"]["search/int8"]["note"]
    assert "4 end on an image" in content["results"]["optimum/ours"]["note"]


def test_the_documentation_has_the_rows_of_the_benchmark(tmp_path, benchmarks, monkeypatch, capsys):
    # Without a card nothing is measured, and nothing else is said.
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path), "--table"])
    assert benchmarks.run.main() == 0
    table = capsys.readouterr().out
    assert "| unmeasured |" in table
    section = (ROOT / "docs/performance.md").read_text().partition("## On a GPU")[2]
    names = [line.split("|")[1].strip() for line in table.splitlines()]
    assert [name for name in names if f"| {name} |" not in section] == []


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (ModelConfig(channels=32, attention=(8,)), (3, 16, 16)),
        (
            ModelConfig(channels=12, multipliers=(1, 2), blocks=1, attention=(), preconditioning="edm"),
            (1, 8, 8),
        ),
    ],
)
def test_the_plain_network_computes_what_the_packages_does(model, shape, benchmarks):
    torch.manual_seed(0)
    ours = build_denoiser(model, shape).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    plain = benchmarks.baseline.PlainDenoiser(model, shape).eval()
    plain.load_state_dict({name: ours.state_dict()[name] for name in plain.state_dict()})
    assert sum(one.numel() for one in plain.parameters()) == sum(one.numel() for one in ours.parameters())
    x, sigma = torch.randn(4, *shape), torch.rand(4) * 5 + 0.1
    with torch.no_grad():
        torch.testing.assert_close(plain(x, sigma), ours(x, sigma), rtol=1e-4, atol=1e-4)


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError("first line\nsecond"), "failed"),
        (SystemExit("a process has ended"), "failed"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory"),
        (BatchTooLargeError("batch_size = 8 needs more", 4), "out of memory"),
    ],
)
def test_a_measurement_that_raises_is_reported_and_the_others_go_on(
    error, state, tmp_path, benchmarks, monkeypatch, capsys
):
    measurement, found = benchmarks.setting.Measurement, benchmarks.setting.Found
    rows = [
        measurement("card/a", "a", "x", lambda: fail(error)),
        measurement("card/b", "b", "x", lambda: found(6.0, "fine")),
        measurement("card/c", "c", "x", lambda: found(3.0), "card/b"),
    ]
    monkeypatch.setattr(benchmarks.run, "plan", lambda setting: {"Part": rows})
    setting = benchmarks.setting.Setting("cpu", miniature=True)
    run = benchmarks.run.Run(tmp_path, setting, 1)
    pending = SimpleNamespace(done=lambda: True, result=lambda: benchmarks.projection.Plan([], {}))
    run.measure(pending)
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert results["card/a"]["state"] == state
    assert results["card/b"]["value"] == 6.0
    assert run.failed == (state == "failed")
    page = (tmp_path / "page.html").read_text()
    assert f">{state}</td>" in page
    assert "0.50x b" in page


def test_what_takes_too_long_is_stopped_and_what_follows_is_not_begun(tmp_path, benchmarks, monkeypatch):
    def endless():
        while True:
            pass

    measurement = benchmarks.setting.Measurement
    rows = [measurement("card/a", "a", "x", endless), measurement("card/b", "b", "x", endless)]
    monkeypatch.setattr(benchmarks.run, "plan", lambda setting: {"Part": rows})
    monkeypatch.setattr(benchmarks.run, "RESERVE", 0)
    run = benchmarks.run.Run(tmp_path, benchmarks.setting.Setting("cpu", miniature=True), 0.2 / 60)
    assert run.measured(rows[0])["state"] == "not finished: time was up"
    assert run.measured(rows[1]) == {"state": "not run: time was up"}


def test_a_network_that_was_not_measured_is_projected_from_the_nearest(benchmarks):
    projection = benchmarks.projection
    plan = projection.Plan(
        [("twice", (projection.Work(2e9, 3600, 0),)), ("both", (projection.Work(1e9, 1800, 360),))],
        {"32x32, width 128": 1e9, "32x32, width 256": 100e9},
    )
    values = {
        "training/32x32, width 128/float32/ours": 2.0,
        "sampling/float32": 0.4,
        "training/32x32, width 256/float32/ours": 5.0,
        "training/32x32, width 256/tf32/ours": 1.0,
    }
    twice, both = projection.project(plan, values)
    assert twice.hours["float32/ours"] == pytest.approx(1.0)  # half as fast as the measured one
    assert twice.hours["tf32/ours"] == pytest.approx(0.02)  # only the wide one was measured
    assert twice.hours["bf16/ours"] is None
    assert both.hours["float32/ours"] == pytest.approx((1800 / 2 + 360 / 0.4) / 3600)


def test_an_experiment_of_the_paper_takes_the_images_of_its_sizes_and_epochs(benchmarks):
    work = benchmarks.projection._work_of("fig2_dim")
    sizes = 500 + 1000 + 2000 + 4000 + 8000 + 16_000
    assert [one.trained for one in work] == pytest.approx([40_000 * sizes] * 3, rel=1e-5)
    assert [one.sampled for one in work] == [6 * 16 * 10_000] * 3
    assert work[0].flops > 3 * work[1].flops > 9 * work[2].flops
