"""The page of `gpu.py`, and the table for the documentation: what was measured, and in words what was not."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from gpu_projection import ASSUMPTIONS, COLUMNS
from gpu_setting import Measurement

__all__ = ["UNMEASURED", "markdown", "page", "picture"]

UNMEASURED = "unmeasured"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; }
table { border-collapse: collapse; width: 100%; margin: 0.5rem 0 1.5rem; }
th, td { text-align: left; padding: 0.25rem 0.6rem; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.not { color: #777; } .warn { background: #fff3cd; padding: 0.5rem 0.8rem; } img { max-width: 100%; }
"""


def number_text(value: float) -> str:
    """Return a number with three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _cells(row: Measurement, results: Mapping[str, Any], plan: Mapping[str, Measurement]) -> tuple[str, ...]:
    """Return what stands in the columns number, unit, ratio, remarks."""
    found = results.get(row.key, {"state": UNMEASURED})
    if "value" not in found:
        return found["state"], row.unit, "", found.get("note", "")
    ratio, base = "", results.get(row.against or "", {})
    if row.against and base.get("value"):
        ratio = f"{number_text(found['value'] / base['value'])}x {plan[row.against].what}"
    note = found["note"]
    if "tflops" in found:
        note += f", {number_text(found['tflops'])} TFLOP/s"
        product = results.get(f"card/{row.key.split('/')[2]}", {}).get("value")
        note += f", {found['tflops'] / product:.0%} of the matrix product's" if product else ""
    return number_text(found["value"]), row.unit, ratio, note


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: frozenset[int]) -> str:
    def cell(tag: str, at: int, text: str) -> str:
        kinds = ("number " if at in numbers else "") + ("not" if text == UNMEASURED else "")
        return f'<{tag} class="{kinds.strip()}">{html.escape(text)}</{tag}>'

    lines = ["<tr>" + "".join(cell("th", at, text) for at, text in enumerate(head)) + "</tr>"]
    lines += ["<tr>" + "".join(cell("td", at, text) for at, text in enumerate(row)) + "</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def page(content: Mapping[str, Any], plan: Mapping[str, Sequence[Measurement]], drawn: str = "") -> str:
    """Return the page.

    Args:
        content: Of results.json.
        plan: Title of each part -> its measurements.
        drawn: Address of the embedded picture; none if empty.
    """
    rows = {row.key: row for part in plan.values() for row in part}
    body = [f"<h1>diffmem on {html.escape(content['machine']['device'])}</h1>"]
    if content["miniature"]:
        body.append(
            '<p class="warn">A miniature run, to see that everything works: its numbers mean nothing.</p>'
        )
    body.append("<p>" + html.escape("; ".join(f"{k}: {v}" for k, v in content["machine"].items())) + "</p>")
    body.append(f"<p>{html.escape(content['state'])}</p>")
    if drawn:
        body.append(f'<p><img alt="Training throughput of each network, as in the tables" src="{drawn}"></p>')
    for title, part in plan.items():
        cells = [(row.what, *_cells(row, content["results"], rows)) for row in part]
        body.append(f"<h2>{html.escape(title)}</h2>")
        body.append(_table(("what", "measured", "unit", "ratio", "remarks"), cells, frozenset({1})))
    body.append("<h2>Projected hours at the paper's scale</h2>")
    body.append(f"<p>{html.escape(ASSUMPTIONS)}</p>")
    hours = [
        (
            one["what"], number_text(one["trained"]), number_text(one["sampled"]),
            *(UNMEASURED if one["hours"][key] is None else number_text(one["hours"][key]) for key in COLUMNS),
        )
        for one in content["projection"]
    ]  # fmt: skip
    head = (
        "what",
        "million images trained",
        "thousand sampled",
        *(f"hours, {words}" for words in COLUMNS.values()),
    )
    body.append(_table(head, hours, frozenset(range(1, len(head)))) if hours else f"<p>{UNMEASURED}</p>")
    title = f"<meta charset='utf-8'><title>diffmem on a GPU</title><style>{_STYLE}</style>"
    return (
        f"<!doctype html><html lang='en'><head>{title}</head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def markdown(content: Mapping[str, Any], plan: Mapping[str, Sequence[Measurement]]) -> str:
    """Return the parts as a table of the documentation; `content` may be empty: nothing is measured yet."""
    rows = {row.key: row for part in plan.values() for row in part}

    def measured(row: Measurement) -> str:
        number, unit, ratio, _ = _cells(row, content.get("results", {}), rows)
        return f"{row.what} {number} {unit}{f' ({ratio})' if ratio else ''}"

    results = content.get("results", {})
    found = {
        title: "; ".join(measured(row) for row in part)
        if any(row.key in results for row in part)
        else UNMEASURED
        for title, part in plan.items()
    }
    for one in content.get("projection", []):
        hours = {words: one["hours"][key] for key, words in COLUMNS.items() if one["hours"][key] is not None}
        text = "; ".join(f"{words} {number_text(value)}" for words, value in hours.items())
        found[f"Projected hours, {one['what']}"] = text or UNMEASURED
    if not content.get("projection"):
        found["Projected hours of one EMM, and of each experiment at the paper's scale"] = UNMEASURED
    return "".join(
        f"| {name} | {text} |\n" for name, text in {"part": "measured", "---": "---", **found}.items()
    )


def picture(content: Mapping[str, Any], networks: Sequence[str]) -> str:
    """Return bars of the training throughput, as the address of an embedded picture; empty if nothing was measured."""
    from matplotlib import pyplot as plt

    from diffmem.reports.html import svg_uri

    kinds = {
        f"{precision}/{kind}": (f"{words}{', plain' if kind == 'plain' else ''}", colour, kind == "plain")
        for precision, words, colour in (
            ("float32", "float32", "#0072B2"), ("tf32", "TF32", "#D55E00"), ("bf16", "bf16", "#009E73"),
        )
        for kind in ("plain", "ours")
    } | {"bf16/compiled": ("bf16, compiled", "#CC79A7", False)}  # fmt: skip
    values = {key: found["value"] for key, found in content["results"].items() if "value" in found}
    drawn = [name for name in networks if any(f"training/{name}/{kind}" in values for kind in kinds)]
    if not drawn:
        return ""
    figure, panels = plt.subplots(
        1, len(drawn), figsize=(3.4 * len(drawn), 3), layout="constrained", squeeze=False
    )
    for axes, name in zip(panels[0], drawn, strict=True):
        bars = [(*look, values.get(f"training/{name}/{kind}")) for kind, look in kinds.items()]
        for at, (_, colour, hollow, value) in enumerate(bars):
            axes.barh(at, value or 0, color="white" if hollow else colour, edgecolor=colour)
            axes.text(
                value or 0,
                at,
                f" {number_text(value)}" if value else f" {UNMEASURED}",
                va="center",
                fontsize=7,
            )
        axes.set_yticks(range(len(bars)), [words for words, *_ in bars], fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.25)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("images/s", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    address = svg_uri(figure)
    plt.close(figure)
    return address
