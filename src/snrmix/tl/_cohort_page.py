"""What came of a cohort: a table over samples, and a page to look at."""

from __future__ import annotations

import html
from collections.abc import Sequence
from urllib.parse import quote

import pandas as pd

FIRST = ("sample", "status", "error")
LAST = ("warnings", "seconds", "memory_gb", "output", "report")
SHOWN = {
    "sample": "Sample",
    "status": "Status",
    "n_measured": "Measured spots",
    "n_spots": "Spots",
    "n_modelled": "Genes modelled",
    "n_reliable": "Genes reliable",
    "mse_ratio": "MSE, share of the mean's",
    "best_baseline_mse_ratio": "Best baseline's",
    "pearson_median": "Pearson per gene, median",
    "depth_share": "Share by depth",
    "seconds": "Seconds",
    "memory_gb": "Memory, GB",
    "report": "Report",
    "said": "Errors and warnings",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top }
th { border-bottom: 2px solid #888 } td.number { text-align: right; font-variant-numeric: tabular-nums }
.failed { background: #fdecea } .scroll { overflow-x: auto }
"""


def table_of(records: Sequence[dict]) -> pd.DataFrame:
    """One row per sample: status, labels, figures, warnings (joined), seconds, memory, and names of files."""
    rows = [
        {
            **{name: record.get(name, "") for name in FIRST},
            **record.get("labels", {}),
            **record.get("figures", {}),
            **{name: record.get(name, "") for name in LAST[1:]},
            "warnings": " | ".join(record.get("warnings", [])),
        }
        for record in records
    ]
    columns = dict.fromkeys(name for row in rows for name in row if name not in (*FIRST, *LAST))
    last = [name for name in LAST if name != "report" or any(row["report"] for row in rows)]
    return pd.DataFrame(rows, columns=[*FIRST, *columns, *last]).set_index("sample")


def html_of(table: pd.DataFrame) -> str:
    """A page of HTML that needs nothing else."""
    table = table.reset_index()
    table["said"] = [
        " ".join(part for part in pair if part) for pair in zip(table["error"], table["warnings"], strict=True)
    ]
    columns = [name for name in SHOWN if name in table]
    head = "".join(f"<th>{html.escape(SHOWN[name])}</th>" for name in columns)
    rows = "\n".join(_row(row, columns) for row in table.to_dict("records"))
    n_done = int((table["status"] == "done").sum())
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>snrmix: cohort</title>
<style>{STYLE}</style></head><body>
<h1>{n_done} of {len(table)} samples imputed</h1>
<p>Scores are out-of-fold: at measured spots that the model had not seen. A share of the mean's squared error below that of
the best baseline means that histology and method added something; see cohort.csv for all figures.</p>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table></div></body></html>
"""


def _row(row: dict, columns: Sequence[str]) -> str:
    cells = "".join(_link(row[name]) if name == "report" else _cell(row[name]) for name in columns)
    return f'<tr class="{html.escape(str(row["status"]))}">{cells}</tr>'


def _link(page: str) -> str:
    return f'<td><a href="{html.escape(quote(page))}">report</a></td>' if page else "<td></td>"


def _cell(value) -> str:
    if isinstance(value, bool | str):
        return f"<td>{html.escape(str(value))}</td>"
    if value is None or pd.isna(value):
        return '<td class="number">-</td>'
    shown = f"{value:,.0f}" if float(value).is_integer() else f"{value:.3f}"
    return f'<td class="number">{shown}</td>'
