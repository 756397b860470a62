"""What people look at: figures, galleries, one self-contained HTML page, and its JSON.

Modules:
    words: Numbers and findings as people read them.
    style: Colours, fonts and axes, in one place.
    figures: R_mem against the size of the training set and against epochs.
    gallery: Generated images beside their nearest training images.
    tables: The summary of a study, one row per run; on the terminal and in the page.
    html: The page.
    write: The report's folder.
    experiment_match: Which number of the paper belongs beside which run.
    experiment_words: The scale, the levels and the verdicts of an experiment in words.
    experiment_series: The curves of an experiment, with one look for both panels.
    experiment_axes: Axes of levels, and masks of skip connections as squares.
    experiment_draw: Points with intervals, curves with bands, null rates.
    experiment_figure: An experiment in two panels: this run, and the paper.
    experiment_tables: The numbers of an experiment, one row per level and size.
    experiment_page: The folder of an experiment.
    results_page: All experiments as one Markdown page.

Matplotlib and jinja2 are loaded when something is drawn, not when this package is imported.
"""

from __future__ import annotations

from diffmem.reports.experiment_figure import experiment_figure
from diffmem.reports.experiment_page import render_experiment, write_experiment
from diffmem.reports.experiment_tables import ExperimentRow, experiment_rows, experiment_table
from diffmem.reports.figures import figure_svg, rmem_against_epochs, rmem_against_size, save_figure
from diffmem.reports.gallery import Gallery, example_gallery, gallery_figure
from diffmem.reports.html import render_report
from diffmem.reports.results_page import results_page
from diffmem.reports.tables import SummaryRow, summary_rows, terminal_table
from diffmem.reports.words import emm_words, headline, warnings_of
from diffmem.reports.write import ReportPaths, write_report

__all__ = [
    "ExperimentRow",
    "Gallery",
    "ReportPaths",
    "SummaryRow",
    "emm_words",
    "example_gallery",
    "experiment_figure",
    "experiment_rows",
    "experiment_table",
    "figure_svg",
    "gallery_figure",
    "headline",
    "render_experiment",
    "render_report",
    "results_page",
    "rmem_against_epochs",
    "rmem_against_size",
    "save_figure",
    "summary_rows",
    "terminal_table",
    "warnings_of",
    "write_experiment",
    "write_report",
]
