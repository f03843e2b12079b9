"""Commands of `vox3d` about what follows a calculation: maxima, comparisons, lines and planes."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

import napari_vox3d as vox
from napari_vox3d.errors import FormatError, Vox3dError
from napari_vox3d.formats.aside import write_aside, write_csv
from napari_vox3d.terminal import one_line_errors, out, print_rows, progress_bar, save_volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_vox3d.picks import Picks
    from napari_vox3d.volume import Volume

Source = Annotated[Path, typer.Argument(help="Volume of a crystal: ELFCAR, CHGCAR, cube, …")]
End = Annotated[
    str, typer.Argument(help='Number of an atom, from 0, or "a b c" as fractions of the cell.')
]


def compare(
    volume: Annotated[Path, typer.Argument(help="Volume to judge: ELFCAR, CHGCAR, cube, …")],
    reference: Annotated[Path, typer.Argument(help="Volume of the same crystal to judge it by.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the difference to this .cube file.")
    ] = None,
) -> None:
    """Compare two volumes of one crystal, whose grids may differ: MAE, RMSE, largest difference."""
    with one_line_errors():
        result = vox.compare_volumes(vox.read_volume(volume), vox.read_volume(reference))
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
    prominence: Annotated[
        float, typer.Option(help="Leave out those from which the ELF falls by less all around.")
    ] = 0.01,
) -> None:
    """Find the maxima of an ELF: cores, bonds, lone pairs and interstitial electrons.

    The .csv can be opened as picks: besides class, score and the position in Å it has the
    prominence and the place as fractions of the cell.
    """
    with one_line_errors():
        volume = vox.read_volume(elf)
        with progress_bar(elf.name) as progress:
            found = vox.find_maxima(volume, least, prominence, progress=progress)
        if output is not None:
            _write_maxima(output, found, volume)
    if len(found):
        print_rows(
            [
                {
                    "kind": kind,
                    "ELF": f"{value:.3f}",
                    "prominence": f"{height:.3f}",
                    **{axis: f"{x:.3f}" for axis, x in zip("abc", place.round(3) + 0, strict=True)},
                }
                for kind, value, height, place in _maxima(found, volume)
            ]
        )
    counts = ", ".join(f"{count} {kind}" for kind, count in found.counts().items())
    said = counts or f"No maxima above {least:g}"
    left_out = found.metadata["hardly prominent"]
    more = f"; {left_out} more stand out by less than {prominence:g}" if left_out else ""
    out.print(f"{said}{more}.", highlight=False)


def profile(
    volume: Source,
    start: End,
    stop: End,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it to this .csv file.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Number of points, both ends included.")] = 200,
) -> None:
    """Values along a line between two atoms or points, as CSV: distance and position in Å, value.

    From atom to atom the line goes to the nearest image.
    """
    with one_line_errors():
        crystal = vox.read_volume(volume)
        line = vox.line_profile(crystal, _end(crystal, start), _end(crystal, stop), samples)
        header = ("distance_angstrom", "x_angstrom", "y_angstrom", "z_angstrom", "value")
        columns = np.column_stack([line.distances, line.positions[:, ::-1], line.values])
        _write_csv(output, header, columns.round(8).tolist())
    if output is not None:
        out.print(
            f"{output}: {samples} points over {line.distances[-1]:.3f} Å, "
            f"from {line.values.min():.4g} to {line.values.max():.4g}",
            highlight=False,
            soft_wrap=True,
        )


def slice_(
    volume: Source,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="A grey .png, or a volume in its true place: .cube."),
    ],
    hkl: Annotated[str, typer.Option(help='Miller indices, such as "1 1 0" or "0 0 1".')] = "0 0 1",
    through: Annotated[
        str, typer.Option(help='A point of the plane: number of an atom, or "a b c" as fractions.')
    ] = "0 0 0",
    spacing: Annotated[
        float | None, typer.Option(help="Å between points. Default: the least voxel size.")
    ] = None,
    extent: Annotated[
        float | None, typer.Option(help="Å, edge of the square. Default: one period.")
    ] = None,
) -> None:
    """Cut a crystal's volume along a lattice plane."""
    with one_line_errors():
        crystal = vox.read_volume(volume)
        indices = _three_numbers(hkl, "Miller indices are three integers")
        middle = _place(crystal, _end(crystal, through))
        cut = vox.lattice_plane(crystal, indices, origin=middle, spacing=spacing, extent=extent)
        if output.suffix.lower() != ".png":
            save_volume(output, cut)
            return
        low, high = _write_picture(output, cut.values[0])
    rows, columns = cut.shape[1:]
    out.print(
        f"{output}: {columns}×{rows} points, {cut.voxel_size[1]:.4g} Å apart; "
        f"black is {low:.4g}, white {high:.4g}",
        highlight=False,
        soft_wrap=True,
    )


def supercell(
    volume: Source,
    a: Annotated[int, typer.Argument(help="Cells along a.", min=1)],
    b: Annotated[int, typer.Argument(help="Cells along b.", min=1)],
    c: Annotated[int, typer.Argument(help="Cells along c.", min=1)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; its name says the format.")
    ],
) -> None:
    """Tile a crystal's volume, atoms included."""
    with one_line_errors():
        volumes = [vox.supercell(one, (a, b, c)) for one in vox.read_volumes(volume)]
        save_volume(output, volumes)


def statistics(
    volume: Annotated[Path, typer.Argument(help="Any volume: ELFCAR, CHGCAR, cube, MRC, …")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the histogram to this .csv file.")
    ] = None,
    bins: Annotated[int, typer.Option(help="Of the histogram.")] = 100,
) -> None:
    """Extremes, mean, quantiles and, of a density, the number of electrons."""
    with one_line_errors():
        for field in vox.read_volumes(volume):
            found = vox.volume_statistics(field, bins)
            if output is not None:
                rows = zip(found.edges[:-1], found.edges[1:], found.counts, strict=True)
                _write_csv(output, ("from", "to", "voxels"), [list(row) for row in rows])
                output = None  # the first grid is the one that has no other name
            figures = {
                "least": found.least,
                "mean": found.mean,
                "largest": found.largest,
                "standard deviation": found.deviation,
                **{f"{100 * part:g} % below": value for part, value in found.quantiles.items()},
            }
            if found.electrons is not None:
                figures["electrons"] = found.electrons
            if found.not_numbers:
                figures["voxels without a number"] = found.not_numbers
            print_rows(
                [{"": name, field.unit or "value": f"{x:.6g}"} for name, x in figures.items()],
                title=field.name or field.quantity,
            )


COMMANDS: dict[str, Callable[..., None]] = {
    "compare": compare,
    "maxima": maxima,
    "profile": profile,
    "slice": slice_,
    "supercell": supercell,
    "statistics": statistics,
}


def _maxima(found: Picks, volume: Volume) -> list[tuple[str, float, float, NDArray[np.float64]]]:
    """Kind, value, prominence and place along a, b and c as fractions of the cell."""
    places = (volume.to_index(found.positions + volume.origin) / volume.shape)[:, ::-1]
    columns: Sequence[Any] = found.labels, found.scores, found.metadata["prominence"], places
    return list(zip(*columns, strict=True))


def _write_maxima(path: Path, found: Picks, volume: Volume) -> None:
    rows = [
        [kind, value, height, *place.round(6), *position]
        for (kind, value, height, place), position in zip(
            _maxima(found, volume), found.positions, strict=True
        )
    ]
    position = [f"{axis}_angstrom" for axis in "zyx"]
    _write_csv(path, ("class", "score", "prominence", "a", "b", "c", *position), rows)


def _write_csv(path: Path | None, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table to a file, or to the terminal if there is none."""
    if path is None:
        csv.writer(sys.stdout).writerows([header, *rows])
        return
    if path.suffix.lower() != ".csv":
        raise FormatError(path, "does not have the name of a table", hint="Call it .csv.")
    write_csv(path, [header, *rows])


def _write_picture(path: Path, values: NDArray[np.floating]) -> tuple[float, float]:
    """Write rows of values as a grey picture, the first row below; what is black and white."""
    from PIL import Image

    low, high = float(values.min()), float(values.max())
    grey = np.rint(255 * (values[::-1] - low) / ((high - low) or 1)).astype(np.uint8)
    with write_aside(path) as aside:
        Image.fromarray(grey).save(aside, format="png")
    return low, high


def _end(crystal: Volume, text: str) -> int | NDArray[np.float64]:
    """Number of an atom, or Å (z, y, x) of a point given as fractions of the cell."""
    if text.strip().isdigit():
        return int(text)
    fractions = _three_numbers(text, "A place is the number of an atom or three fractions")
    return crystal.origin + np.array(fractions[::-1]) @ crystal.cell


def _place(crystal: Volume, end: int | NDArray[np.float64]) -> NDArray[np.float64]:
    if not isinstance(end, int):
        return end
    if crystal.atoms is None or end >= len(crystal.atoms):
        raise Vox3dError(f"There is no atom {end} in {crystal.name or crystal.source}.")
    return crystal.atoms.positions[end, ::-1]


def _three_numbers(text: str, what: str) -> list[float]:
    try:
        first, second, third = (float(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise Vox3dError(f"{what}, such as '1 1 0', not {text!r}.") from None
    return [first, second, third]
