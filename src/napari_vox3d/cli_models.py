"""Commands of `vox3d` about models: list them, show a card, add one, remove one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

import napari_vox3d as vox
from napari_vox3d.terminal import one_line_errors, out, print_rows


def models(
    name: Annotated[str | None, typer.Argument(help="Show the whole card of this model.")] = None,
) -> None:
    """List the models at hand, or show the card of one.

    Your own lie in the folder chosen in napari's Preferences, or that of the environment variable
    NAPARI_VOX3D_MODELS.
    """
    if name is not None:
        with one_line_errors():
            out.print_json(vox.load_model(name).card.model_dump_json())
        return
    print_rows([
        {
            "name": model.card.name,
            "task": model.card.task,
            "what it is": model.card.title,
            "whose": "shipped" if model.shipped else "yours",
            "MB": f"{model.size / 1e6:.1f}",
        }
        for model in vox.models.installed_models()
    ])  # fmt: skip
    out.print(f"Yours are kept in {vox.models.user_folder()}.", highlight=False, soft_wrap=True)


def models_add(
    source: Annotated[
        Path,
        typer.Argument(help="Folder, card (.json), weights (.safetensors) or checkpoint (.ckpt)."),
    ],
) -> None:
    """Copy a model into your own, so that it is found by its name."""
    with one_line_errors():
        card = vox.models.add_model(source)
    command = {"picking": "pick", "elf": "elf", "embedding": "similar"}[card.task]
    out.print(
        f"Added “{card.title}”. Use it: vox3d {command} --model {card.name} …",
        highlight=False,
        soft_wrap=True,
    )


def models_remove(
    name: Annotated[str, typer.Argument(help="One of your own models.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete one of your own models from the disk."""
    if not yes:
        typer.confirm(f"Delete the model {name!r} from the disk?", abort=True)
    with one_line_errors():
        vox.models.remove_model(name)
    out.print(f"Removed {name}.", highlight=False)


COMMANDS: dict[str, Callable[..., None]] = {
    "models": models,
    "models-add": models_add,
    "models-remove": models_remove,
}
