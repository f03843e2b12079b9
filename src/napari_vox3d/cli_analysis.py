"""Commands of `vox3d` about what follows a calculation: compare, maxima."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import napari_vox3d as vox
from napari_vox3d.density.analysis import compare as compare_volumes
from napari_vox3d.density.bonding import maxima as find_maxima
from napari_vox3d.terminal import one_line_errors, out, print_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_vox3d.picks import Picks
    from napari_vox3d.volume import Volume


def compare(
    volume: Annotated[Path, typer.Argument(help="Volume to judge: ELFCAR, CHGCAR, cube, …")],
    reference: Annotated[Path, typer.Argument(help="Volume of the same crystal to judge it by.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the difference to this .cube file.")
    ] = None,
) -> None:
    """Compare two volumes of one crystal, whose grids may differ: MAE, RMSE, largest difference."""
    with one_line_errors():
        result = compare_volumes(vox.read_volume(volume), vox.read_volume(reference))
        if output is not None:
            vox.write_volume(output, result.difference)
    unit = f" {result.difference.unit}".rstrip()
    out.print(
        f"MAE {result.mae:.4g}{unit}, RMSE {result.rmse:.4g}{unit}, "
        f"largest {result.largest:.4g}{unit}",
        highlight=False,
    )


def maxima(
    elf: Annotated[Path, typer.Argument(help="ELF with atoms: ELFCAR or cube file.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write them to this .csv file.")
    ] = None,
    least: Annotated[float, typer.Option(help="Leave out lower maxima.")] = 0.5,
) -> None:
    """Find the maxima of an ELF: cores, bonds, lone pairs and interstitial electrons."""
    with one_line_errors():
        volume = vox.read_volume(elf)
        found = find_maxima(volume, least=least)
        if output is not None:
            vox.write_picks(output, found)
    if len(found):
        print_rows(_rows(found, volume))
    counts = ", ".join(f"{count} {kind}" for kind, count in found.counts().items())
    out.print(counts or f"No maxima above {least:g}.", highlight=False)


COMMANDS: dict[str, Callable[..., None]] = {"compare": compare, "maxima": maxima}


def _rows(found: Picks, volume: Volume) -> list[dict[str, str]]:
    """Kind, value, and place along a, b and c as fractions of the cell."""
    places = volume.to_index(found.positions + volume.origin) / volume.shape
    return [
        {"kind": kind, "ELF": f"{value:.3f}", **_fractions(place[::-1])}
        for kind, value, place in zip(found.labels, found.scores, places, strict=True)  # type: ignore[arg-type]
    ]


def _fractions(place: NDArray[np.float64]) -> dict[str, str]:
    return {axis: f"{x:.3f}" for axis, x in zip("abc", place.round(3) + 0.0, strict=True)}
