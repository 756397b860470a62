"""The command line, thin: parse, call, print.

The modules of the commands import packages inside their functions, so that `diffmem --help` is instant.
"""

from __future__ import annotations

from cyclopts import App, Parameter

from diffmem.cli.audit import audit
from diffmem.cli.data import data_build, data_fetch, data_info
from diffmem.cli.doctor import doctor
from diffmem.cli.duplicates import data_duplicates
from diffmem.cli.gap import gap
from diffmem.cli.generate import generate
from diffmem.cli.measure import measure
from diffmem.cli.model import model_info
from diffmem.cli.optimum import optimum
from diffmem.cli.options import whole_numbers
from diffmem.cli.quickstart import quickstart
from diffmem.cli.reproduce import reproduce
from diffmem.cli.runs import runs
from diffmem.cli.search import new, onset, status, watch
from diffmem.cli.split import data_split
from diffmem.cli.study import report, study
from diffmem.cli.train import train
from diffmem.version import __version__

__all__ = ["app"]

app = App(
    name="diffmem",
    help="Measure, explain and audit memorization in diffusion models.",
    version=__version__,
    help_format="plaintext",
    default_parameter=Parameter(converter=whole_numbers),
    suppress_keyboard_interrupt=False,  # __main__ says what becomes of the work
)
data = App(
    name="data",
    help="Build an image set, split or inspect one, find its duplicates, or download one.",
    help_format="plaintext",
)
data.command(data_build, name="build")
data.command(data_split, name="split")
data.command(data_info, name="info")
data.command(data_duplicates, name="duplicates")
data.command(data_fetch, name="fetch")
studies = App(name="study", help_format="plaintext")
studies.default(study)
studies.command(new)
studies.command(status)
studies.command(onset)
studies.command(watch)
studies.command(report)
models = App(
    name="model", help="Inspect a model that was trained here or elsewhere.", help_format="plaintext"
)
models.command(model_info, name="info")
app.command(data)
app.command(models)
for command in (
    quickstart,
    audit,
    train,
    generate,
    measure,
    optimum,
    gap,
    studies,
    report,
    runs,
    reproduce,
    doctor,
):
    app.command(command)
