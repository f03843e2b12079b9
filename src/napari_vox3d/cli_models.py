"""Commands of `vox3d` about models: list them, show a card, add one, remove one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from rich.table import Table

import napari_vox3d as vox
from napari_vox3d.terminal import one_line_errors, out


def models(
    name: Annotated[str | None, typer.Argument(help="Show the whole card of this model.")] = None,
) -> None:
    """List the models at hand, or show the card of one."""
    if name is not None:
        with one_line_errors():
            out.print_json(vox.load_model(name).card.model_dump_json())
        return
    table = Table("name", "task", "what it is")
    for card in vox.list_models():
        table.add_row(card.name, card.task, card.title)
    out.print(table)


COMMANDS: dict[str, Callable[..., None]] = {"models": models}
