"""Commands of `vox3d` that compare picks by what they look like: find more, and group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

import napari_vox3d as vox
from napari_vox3d.cli_batch import Contrast
from napari_vox3d.errors import Vox3dError
from napari_vox3d.terminal import Device, Format, one_line_errors, progress_bar, save_picks

if TYPE_CHECKING:
    from napari_vox3d.picks import Picks
    from napari_vox3d.volume import Volume

Tomogram = Annotated[Path, typer.Argument(help="The tomogram.")]
Target = Annotated[Path, typer.Option("--output", "-o", "--out", help="File to write.")]
ModelName = Annotated[str, typer.Option(help="Name of an embedding, or path of one.")]
Look = Annotated[
    Contrast | None,
    typer.Option(help="How particles look; auto finds out. Default: as the model expects."),
]


def similar(
    tomogram: Tomogram,
    examples: Annotated[Path, typer.Argument(help="Picks of one kind; ten are good.")],
    output: Target,
    label: Annotated[
        str | None, typer.Option("--class", help="Class of the examples, if there are several.")
    ] = None,
    among: Annotated[
        Path | None,
        typer.Option(help="Choose from these picks. Default: look everywhere in the tomogram."),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Least likeness: 1 is like the mean example.")
    ] = 0.8,
    min_distance: Annotated[
        float | None, typer.Option(help="Å between picks. Default: 1.5 times the radius.")
    ] = None,
    model: ModelName = "default",
    file_format: Format = None,
    contrast: Look = None,
    device: Device = "auto",
) -> None:
    """Find more particles that look like some picks, without training.

    The score of a pick is its likeness: 0 for a place like any other, 1 for one like the mean of
    the examples. With --among all picks are ranked so, to keep those of a kind: --threshold=-9
    keeps all.
    """
    with one_line_errors():
        volume, picks = _read(tomogram, examples)
        known = _of_class(picks, label)
        others = None if among is None else vox.read_picks(among, volume)
        with progress_bar(tomogram.name) as progress:
            found = vox.find_similar(
                volume,
                known,
                model,
                among=others,
                threshold=threshold,
                min_distance=min_distance,
                contrast=contrast and contrast.value,
                device=device,
                progress=progress,
            )
        save_picks(output, found, file_format)


def cluster(
    tomogram: Tomogram,
    picks: Annotated[Path, typer.Argument(help="Picks to group.")],
    output: Target,
    count: Annotated[
        int | None, typer.Option(help="Number of clusters. Default: the clearest from 2 to 8.")
    ] = None,
    model: ModelName = "default",
    file_format: Format = None,
    contrast: Look = None,
    device: Device = "auto",
) -> None:
    """Group picks by what they look like; cluster-1, cluster-2 and so on become their classes."""
    with one_line_errors():
        volume, found = _read(tomogram, picks)
        with progress_bar(tomogram.name) as progress:
            vectors = vox.embed_picks(
                volume,
                found,
                model,
                contrast=contrast and contrast.value,
                device=device,
                progress=progress,
            )
        groups = vox.cluster_picks(vectors, count)
        labels = np.array([f"cluster-{n + 1}" for n in groups], str)
        save_picks(output, replace(found, labels=labels), file_format)


def _read(tomogram: Path, picks: Path) -> tuple[Volume, Picks]:
    volume = vox.read_volume(tomogram)
    return volume, vox.read_picks(picks, volume)


def _of_class(picks: Picks, label: str | None) -> Picks:
    """Examples of one class.

    Raises
    ------
    Vox3dError
        If there is none, or several and none is named.
    """
    names = picks.classes
    if label is None and len(names) > 1:
        raise Vox3dError(f"The examples are of {', '.join(names)}; name one with --class.")
    if label is not None and label not in names:
        raise Vox3dError(f"No example is of class {label!r}; there are {', '.join(names)}.")
    return picks if label is None else picks.of_class(label)


COMMANDS: dict[str, Callable[..., None]] = {"similar": similar, "cluster": cluster}
