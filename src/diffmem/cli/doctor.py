"""`diffmem doctor`."""

from __future__ import annotations

from diffmem.console import console

__all__ = ["doctor"]

_CORE = (
    "torch",
    "numpy",
    "scipy",
    "pillow",
    "safetensors",
    "pydantic",
    "cyclopts",
    "rich",
    "filelock",
    "matplotlib",
    "jinja2",
    "scikit-learn",
    "pyyaml",
)
_EXTRAS = {
    "tensorboard": ("tensorboard", "TensorBoard events of training (diffmem train --tensorboard)"),
    "diffusers": ("diffusers", "diffusers models (diffmem audit, diffmem generate)"),
    "torch-fidelity": ("fid", "Frechet distances and similarities of Inception features"),
    "transformers": ("text", "text-to-image models (diffmem audit --model sd15/ --lora FILE)"),
    "pyarrow": ("parquet", "training sets in Parquet, and those of Hugging Face datasets"),
    "parsl": ("cluster", "searches for EMM on a cluster"),
}


def doctor() -> None:
    """Show versions, device, threads, memory, and what is missing for which feature.

    Example: diffmem doctor
    """
    import os
    import platform
    import shutil
    from importlib.metadata import PackageNotFoundError, version

    import torch
    from rich.table import Table

    from diffmem.version import __version__

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    table = Table(box=None, show_header=False)
    table.add_row("diffmem", __version__)
    table.add_row("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in _CORE:
        table.add_row(package, installed(package) or "MISSING: pip install diffmem")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            table.add_row(f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    else:
        table.add_row("cuda", "no GPU that torch can use: everything runs on the CPU")
    table.add_row("cores", f"{os.cpu_count()}; torch uses {torch.get_num_threads()} threads")
    table.add_row("memory", _memory())
    table.add_row("free disk here", f"{shutil.disk_usage('.').free / 2**30:.0f} GiB")
    compiler = shutil.which("g++") or shutil.which("clang++")
    table.add_row(
        "C++ compiler", "found" if compiler else "missing: training.compile=true does not work on the CPU"
    )
    for package, (extra, feature) in _EXTRAS.items():
        found = installed(package)
        table.add_row(
            package,
            f"{found}: {feature}" if found else f"missing: {feature}; pip install 'diffmem[{extra}]'",
        )
    console().print(table)


def _memory() -> str:
    import os

    try:
        size = os.sysconf("SC_PAGE_SIZE")
        total, free = os.sysconf("SC_PHYS_PAGES") * size, os.sysconf("SC_AVPHYS_PAGES") * size
    except (ValueError, OSError, AttributeError):
        return "unknown on this system"
    return f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} GiB free"
