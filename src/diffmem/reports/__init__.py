"""What people look at: figures, galleries, one self-contained HTML page, and its JSON.

Modules:
    words: Numbers and findings as people read them.
    style: Colours, fonts and axes, in one place.
    figures: R_mem against the size of the training set and against epochs.
    gallery: Generated images beside their nearest training images.
    tables: The summary of a study, one row per run; on the terminal and in the page.
    html: The page.
    write: The report's folder.

Matplotlib and jinja2 are loaded when something is drawn, not when this package is imported.
"""

from __future__ import annotations

from diffmem.reports.figures import figure_svg, rmem_against_epochs, rmem_against_size, save_figure
from diffmem.reports.gallery import Gallery, gallery_figure
from diffmem.reports.html import render_report
from diffmem.reports.tables import SummaryRow, summary_rows, terminal_table
from diffmem.reports.words import emm_words, headline, warnings_of
from diffmem.reports.write import ReportPaths, write_report

__all__ = [
    "Gallery",
    "ReportPaths",
    "SummaryRow",
    "emm_words",
    "figure_svg",
    "gallery_figure",
    "headline",
    "render_report",
    "rmem_against_epochs",
    "rmem_against_size",
    "save_figure",
    "summary_rows",
    "terminal_table",
    "warnings_of",
    "write_report",
]
