"""Fills the tables of the documents from the package itself, so that they cannot drift.

A comment ``<!-- vox3d: NAME -->`` on a line of its own in a page stands for the text that the
function NAME below gives. mkdocs calls `on_page_markdown` for every page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import typer

from napari_vox3d.formats import PICK_FORMATS
from napari_vox3d.models import ELFInput, ModelCard
from napari_vox3d.models.registry import SHIPPED

MARK = re.compile(r"^<!-- vox3d: (\w+) -->$", re.M)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables where a page asks for them."""
    return MARK.sub(lambda mark: TABLES[mark[1]](), markdown)


def elf_models() -> str:
    """Cards of the shipped ELF models."""
    return _cards("elf")


def picking_models() -> str:
    """Cards of the shipped pickers."""
    return _cards("picking")


def embedding_models() -> str:
    """Cards of the shipped models that tell particles apart."""
    return _cards("embedding")


def commands() -> str:
    """Help of every command of `vox3d`."""
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from napari_vox3d.cli import app

    group = get_command(app)
    context = typer.Context(group, info_name="vox3d")
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    index = _table(
        {"command": f"[`vox3d {name}`](#vox3d-{name})", "": _first_sentence(command.help)}
        for name, command in sorted(found.items())
    )
    pages = [
        get_docs_for_click(
            obj=command, ctx=typer.Context(command, info_name=name), indent=1, call_prefix="vox3d"
        )
        for name, command in sorted(found.items())
    ]
    return "\n\n".join([index, *pages])


def pick_formats() -> str:
    """What each pick file can hold."""
    return _table(
        {
            "format": f"`{name}`",
            "program": known.title,
            "file": f"`*{known.suffix}`",
            "classes": known.classes,
            "scores": _tick(known.scores),
            "angles": _tick(known.angles),
            "radii": _tick(known.radii),
            "several tomograms": _tick(known.several_tomograms),
            "needs of the tomogram": ", ".join(known.needs),
        }
        for name, known in PICK_FORMATS.items()
    )


TABLES = {
    function.__name__: function
    for function in (elf_models, picking_models, embedding_models, commands, pick_formats)
}


def _cards(task: str) -> str:
    cards = [ModelCard.read(path) for path in sorted(SHIPPED.glob("*.json"))]
    chosen = [card for card in cards if card.task == task]
    chosen.sort(key=lambda card: not card.default)
    return "\n\n".join(map(_card, chosen))


def _card(card: ModelCard) -> str:
    default = " (default)" if card.default else ""
    parts = [f"### {card.title}{default} {{ #{card.name} }}", card.description]
    facts = {"name": f"`{card.name}`", "network": _network(card), "input": _input(card)}
    facts |= {"training": card.training, "licence of the weights": card.licence}
    if card.sha256:
        facts["sha256 of the weights"] = f"`{card.sha256}`"
    parts.append(_table({"card": name, "": value} for name, value in facts.items()))
    if card.classes:
        parts.append(
            _table(
                {"class": kind.name, "radius (Å)": kind.radius, "threshold": kind.threshold}
                for kind in card.classes
            )
        )
    for table in card.metrics:
        parts += [table.data, _table(table.rows)]
    return "\n\n".join(part for part in parts if part)


def _network(card: ModelCard) -> str:
    if card.network is None:
        return "none"
    arguments = ", ".join(f"{name}={value!r}" for name, value in card.network.arguments.items())
    return f"`{card.network.name}({arguments})`"


def _input(card: ModelCard) -> str:
    if not isinstance(card.input, ELFInput):
        return (
            f"tomograms of {card.input.voxel_size:g} Å voxels (others are rescaled), "
            f"{card.input.contrast} particles, normalisation `{card.input.normalisation}`"
        )
    spacing = card.input.spacing
    grid = "any grid" if spacing is None else f"grid of {spacing:g} Å"
    return f"{', '.join(f'`{name}`' for name in card.input.channels)} on {grid}"


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows by column name as a Markdown table; columns are those of all rows."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names)]
    lines += [[_cell(row.get(name)) for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


def _first_sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _tick(held: bool) -> str:
    return "yes" if held else "–"
