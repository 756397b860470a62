"""The command line, thin: parse, call, print. Commands are imported when they are used, so that `--help` is instant."""

from __future__ import annotations

from cyclopts import App

from diffmem import __version__

__all__ = ["app"]

app = App(
    name="diffmem",
    help="Measure, explain and audit memorization in diffusion models.",
    version=__version__,
    help_format="plaintext",
)

data = App(name="data", help="Build and inspect image sets.", help_format="plaintext")
data.command("diffmem.cli.data:data_build", name="build", help="Build an image set from a source.")
data.command("diffmem.cli.data:data_info", name="info", help="Show what an image set holds.")

app.command("diffmem.cli.quickstart:quickstart", name="quickstart", help="Watch memorization set in: a small study of real digits, in minutes.")
app.command(data)
app.command("diffmem.cli.train:train", name="train", help="Train a denoiser on an image set.")
app.command("diffmem.cli.generate:generate", name="generate", help="Generate images from a run or a snapshot.")
app.command("diffmem.cli.measure:measure", name="measure", help="Measure how many samples copy a training image.")
app.command("diffmem.cli.study:study", name="study", help="Train at several sizes and estimate EMM.")
app.command("diffmem.cli.study:report", name="report", help="Draw the report of a study again.")
app.command("diffmem.cli.doctor:doctor", name="doctor", help="Show versions, device, memory and what is missing.")
