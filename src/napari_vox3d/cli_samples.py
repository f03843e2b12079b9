"""The command `vox3d samples`: the sample data as files."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from napari_vox3d.formats.aside import make_folder, write_aside
from napari_vox3d.terminal import one_line_errors, out

KINDS = (".gz", ".mrc", ".star")


def samples(
    folder: Annotated[Path, typer.Argument(help="Where to put them.")] = Path("samples"),
) -> None:
    """Copy the files behind File › Open Sample into a folder, to try the commands on them."""
    with one_line_errors():
        make_folder(folder)
        for sample in (files("napari_vox3d.gui") / "sample_data").iterdir():
            if sample.name.endswith(KINDS):
                with write_aside(folder / sample.name) as aside:
                    aside.write_bytes(sample.read_bytes())
                out.print(folder / sample.name, highlight=False, soft_wrap=True)


COMMANDS: dict[str, Callable[..., None]] = {"samples": samples}
