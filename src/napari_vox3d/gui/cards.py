"""Cards of models as rich text: a tooltip with the figures, or the whole card as a page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from napari_vox3d.models import user_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from napari_vox3d.models import Installed, ModelCard

TASKS = {"elf": "Predict ELF", "picking": "Pick particles", "embedding": "Find similar"}
"""Window for each task of a model."""


def figures(card: ModelCard) -> str:
    """Measured figures of a model as a tooltip."""
    return (
        f"<b>{escape(card.title)}</b><p>{escape(card.description)}</p>"
        f"<p>Training: {escape(card.training)}</p>{_metrics(card)}"
        f"<p>Models of your own go into {escape(str(user_folder()))}.</p>"
    )


def page(model: Installed) -> str:
    """Everything a card says, and where its files are."""
    card = model.card
    facts = {
        "Name": card.name,
        "Window": TASKS[card.task] + (" (chosen unless you choose another)" * card.default),
        **_input(card),
        "Network": card.network.name if card.network else "none: computed by a formula",
        "Version": card.version,
        "Licence": card.licence,
        "Folder": str(model.path.parent),
        "sha256": card.sha256 or "",
    }
    rows = [(escape(name), escape(value)) for name, value in facts.items() if value]
    classes = [
        (
            f'<span style="color:{kind.colour}">●</span> {escape(kind.name)}',
            f"{kind.radius:g}",
            f"{kind.threshold:g}",
        )
        for kind in card.classes
    ]
    return (
        f"<h3>{escape(card.title)}</h3><p>{escape(card.description)}</p>"
        + (_table(("Class", "Radius (Å)", "Threshold"), classes) if classes else "")
        + f"<h4>Training</h4><p>{escape(card.training)}</p>"
        + (f"<h4>Measured</h4>{_metrics(card)}" if card.metrics else "")
        + f"<h4>Facts</h4><table>{_rows(rows)}</table>"
    )


def _input(card: ModelCard) -> dict[str, str]:
    """What it is made for, in words."""
    if card.task != "elf":
        given = card.input
        return {"Made for": f"{given.contrast} particles, voxels of {given.voxel_size:g} Å"}
    grid = card.input.spacing
    return {
        "Made for": "any grid" if grid is None else f"grids of {grid:g} Å",
        "Computed from": card.input.source,
        "Elements seen": ", ".join(card.known.elements) if card.known else "",
        "Error band": card.uncertainty.data if card.uncertainty else "",
    }


def _metrics(card: ModelCard) -> str:
    tables = ""
    for table in card.metrics:
        names = list(dict.fromkeys(name for row in table.rows for name in row))
        rows = [[_cell(row.get(name)) for name in names] for row in table.rows]
        tables += f"<p>{escape(table.data)}</p>{_table(map(escape, names), rows)}"
    return tables


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """Table of cells that are rich text; one that is too wide scrolls, for words stay whole."""
    titles = "".join(f"<th align=left>{name}&nbsp;&nbsp;</th>" for name in head)
    return f'<table style="white-space: nowrap"><tr>{titles}</tr>{_rows(rows)}</table>'


def _rows(rows: Iterable[Sequence[str]]) -> str:
    cells = ("".join(f"<td>{cell}&nbsp;&nbsp;</td>" for cell in row) for row in rows)
    return "".join(f"<tr>{row}</tr>" for row in cells)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else escape(str(value))
