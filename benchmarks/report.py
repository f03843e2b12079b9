"""The table and the plot of all that was measured, in the terminal and in docs/performance.md."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import ROOT, Row, number

PAGE = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "images" / "performance.png"
LIBRARIES = ("torch", "numpy", "scipy", "napari", "pymatgen-core", "ase", "scikit-image", "monai")
MARKS = "<!-- {0}: written by make bench -->\n", "<!-- end of {0} -->"
COLOURS = {"aim": "green", "must": "yellow", "short": "red", "": "default"}
WORDS = {"aim": "aim", "must": "must", "short": "**short**", "": ""}


def machine() -> str:
    """Processor, cores, memory and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = [f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB of memory"]
    found.append(f"{platform.system()}, Python {platform.python_version()}")
    return "; ".join([*found, ", ".join(filter(None, map(_versioned, LIBRARIES)))])


def _processor() -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    flags = Path("/proc/cpuinfo").read_text()
    units = (("amx_bf16", "AMX"), ("avx512f", "AVX-512"), ("avx2", "AVX2"))
    widest = next((name for flag, name in units if f" {flag} " in flags), "")
    return f"{names[0] if names else platform.machine()} ({widest})"


def _versioned(library: str) -> str:
    try:
        return f"{library} {version(library)}"
    except ImportError:
        return ""


def rows_of(found: list[dict[str, Any]]) -> list[Row]:
    """Rows of all benchmarks, in their order."""
    return [Row(**row) for kept in found for row in kept.get("rows", [])]


def print_table(found: list[dict[str, Any]], console: Console) -> None:
    """Print all rows as one table."""
    table = Table("work", "beside", "figure", "must", "aim", "measured")
    for row in rows_of(found):
        figure = "–" if row.value is None else number(row.value, row.unit)
        table.add_row(
            row.work, row.peer, f"[{COLOURS[row.reached]}]{figure}[/]", row.goal(row.must),
            row.goal(row.aim), row.said,
        )  # fmt: skip
    console.print(table)
    for name in sorted({kept["machine"] for kept in found}):
        console.print(name)


def write_documents(found: list[dict[str, Any]]) -> None:
    """Put table, floors and plot into the page."""
    rows = rows_of(found)
    text = PAGE.read_text()
    dates = sorted({kept["date"] for kept in found})
    machines = sorted({kept["machine"] for kept in found})
    text = _between(text, "machine", f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))}"
                    f" on: {' / '.join(machines)}.\n")  # fmt: skip
    figures = [
        (
            row.work, row.peer, "–" if row.value is None else number(row.value, row.unit),
            row.goal(row.must), row.goal(row.aim), WORDS[row.reached], row.said,
        )
        for row in rows
    ]  # fmt: skip
    heads = ("work", "beside", "figure", "must", "aim", "reached", "measured")
    text = _between(text, "table", _markdown(heads, figures))
    floors = {row.work: row.floor for row in rows if row.floor}
    text = _between(text, "floors", _markdown(("work", "floor"), list(floors.items())))
    curves = [curve for kept in found for curve in kept.get("curves", [])]
    if curves:
        _plot(curves)
        said = "Seconds, and memory at the peak, over the number of points"
        text = _between(text, "plot", f"![{said}](images/{PICTURE.name})\n")
    PAGE.write_text(text)


def _between(text: str, name: str, inner: str) -> str:
    begin, end = (mark.format(name) for mark in MARKS)
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{inner}\n{end}{after}"


def _markdown(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _plot(curves: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for curve in curves:
        left.loglog(curve["points"], curve["seconds"], "o-", ms=4, label=curve["name"])
        right.loglog(curve["points"], [size / 1e6 for size in curve["bytes"]], "o-", ms=4)
    ends = [min(min(c["points"]) for c in curves), max(max(c["points"]) for c in curves)]
    right.loglog(ends, [4 * n / 1e6 for n in ends], "k:", lw=1, label="one float32 a point")
    left.set(xlabel="points or voxels", ylabel="seconds")
    right.set(xlabel="points or voxels", ylabel="MB more at the peak")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=150)
