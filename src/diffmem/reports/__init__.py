"""What people look at: figures, galleries, one self-contained HTML page, and its JSON.

Modules:
    words: Numbers and findings as people read them.
    style: Colours, fonts and axes, in one place.
    figures: R_mem against the size of the training set and against epochs.
    gallery: Generated images beside their nearest training images.
    duplicates: Groups of near-duplicates as tables, JSON and CSV.
    duplicates_gallery: Groups of near-duplicates side by side.
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
    optimum_figure: The optimum of an image set over noise levels, and its table.
    gap_figure: Runs side by side: distances to their optimum and to a Gaussian, and losses.
    gap_scatter: Many runs: their position between both, and how it goes with R_mem.
    gap_write: The table and the folder of gaps.
    search_words: What a search for EMM found, and what to know before using it, in words.
    search_names: Names of levels that stay different where they are cut.
    search_figure: EMM by level, beside the paper's values.
    search_cost: What a search spent, beside a fixed grid.
    search_panels: Small multiples, a panel per level of a search.
    search_surface: R_mem over sizes and epochs, level by level.
    search_curves: Learning curves with intervals, level by level.
    search_tables: A search on the terminal: its answers, and its runs as they go on.
    search_page: The page of a search and its folder.
    results_page: All experiments as one Markdown page.

Matplotlib and jinja2 are loaded when something is drawn, not when this package is imported.
"""

from __future__ import annotations

from diffmem.reports.duplicates import duplicates_tables, write_duplicates
from diffmem.reports.duplicates_gallery import ShownGroup, duplicates_figure
from diffmem.reports.experiment_figure import experiment_figure
from diffmem.reports.experiment_page import render_experiment, write_experiment
from diffmem.reports.experiment_tables import ExperimentRow, experiment_rows, experiment_table
from diffmem.reports.figures import figure_svg, save_figure
from diffmem.reports.gallery import Gallery, example_gallery, gallery_figure
from diffmem.reports.gap_figure import gap_figure, loss_figure
from diffmem.reports.gap_scatter import position_figure, scatter_figure
from diffmem.reports.gap_write import gap_table, write_gap
from diffmem.reports.optimum_figure import optimum_figure, optimum_table, write_optimum
from diffmem.reports.results_page import results_page
from diffmem.reports.search_cost import cost_figure
from diffmem.reports.search_curves import curves_figure
from diffmem.reports.search_figure import emm_by_level_figure
from diffmem.reports.search_page import render_search_report, write_search_report
from diffmem.reports.search_surface import surface_figure
from diffmem.reports.search_tables import search_table, watch_table
from diffmem.reports.study_figures import rmem_against_epochs, rmem_against_size
from diffmem.reports.study_page import render_report
from diffmem.reports.study_words import emm_words, headline, warnings_of
from diffmem.reports.study_write import write_report
from diffmem.reports.tables import SummaryRow, summary_rows, terminal_table
from diffmem.reports.write import ReportPaths

__all__ = [
    "ExperimentRow",
    "Gallery",
    "ReportPaths",
    "ShownGroup",
    "SummaryRow",
    "cost_figure",
    "curves_figure",
    "duplicates_figure",
    "duplicates_tables",
    "emm_by_level_figure",
    "emm_words",
    "example_gallery",
    "experiment_figure",
    "experiment_rows",
    "experiment_table",
    "figure_svg",
    "gallery_figure",
    "gap_figure",
    "gap_table",
    "headline",
    "loss_figure",
    "optimum_figure",
    "optimum_table",
    "position_figure",
    "render_experiment",
    "render_report",
    "render_search_report",
    "results_page",
    "rmem_against_epochs",
    "rmem_against_size",
    "save_figure",
    "scatter_figure",
    "search_table",
    "summary_rows",
    "surface_figure",
    "terminal_table",
    "warnings_of",
    "watch_table",
    "write_duplicates",
    "write_experiment",
    "write_gap",
    "write_optimum",
    "write_report",
    "write_search_report",
]
