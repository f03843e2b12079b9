"""`vox3d`: everything the windows do, from the shell.

Each command is a thin layer over the public functions. A problem with one input is printed as one
line, the other inputs go on, and the exit status is 2.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer
from rich.table import Table

import napari_vox3d as vox
from napari_vox3d import cli_analysis, cli_batch, cli_models, cli_samples, cli_similar, cli_training
from napari_vox3d.formats import PICK_FORMATS, kind_of, read_atoms
from napari_vox3d.formats.compression import plain_name
from napari_vox3d.terminal import (
    Format,
    Inputs,
    Output,
    Spacing,
    err,
    for_each,
    one_line_errors,
    out,
    save_picks,
    save_volume,
    target_path,
)

if TYPE_CHECKING:
    from ase import Atoms

    from napari_vox3d.picks import Picks
    from napari_vox3d.volume import Volume

app = typer.Typer(
    help="Pick particles in tomograms, predict the electron localization function of crystals, and "
    "train models for both.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for room in (cli_batch, cli_similar, cli_models, cli_analysis, cli_samples, cli_training):
    for name, command in room.COMMANDS.items():
        app.command(name)(command)

Tomogram = Annotated[
    Path | None, typer.Option(help="Tomogram that picks belong to (gives size and voxel size).")
]


def main() -> None:
    """Entry point of the `vox3d` command."""
    warnings.showwarning = lambda message, *_args, **_more: err.print(
        f"[yellow]warning:[/] {message}", highlight=False, soft_wrap=True
    )
    app()


@app.command()
def info(files: Inputs, volume: Tomogram = None) -> None:
    """Say what is in volume, structure and pick files."""
    for_each(files, lambda path: _print_info(path, volume))


@app.command()
def sad(sources: Inputs, output: Output = None, spacing: Spacing = None) -> None:
    """Superpose the valence densities of the neutral atoms of structures or volumes.

    The grid is that of a volume, unless a spacing is given. Without -o the result of NAME is
    written to NAME.SAD.CHGCAR in the working folder.
    """

    def superpose(path: Path) -> None:
        grid: dict[str, Any] = {}
        if spacing is not None:
            grid["spacing"] = spacing
        elif kind_of(path) == "volume":
            grid["shape"] = vox.read_volume(path).shape
        volume = vox.superpose_atoms(path, **grid)
        save_volume(target_path(plain_name(path), output, len(sources) > 1, ".SAD.CHGCAR"), volume)

    for_each(sources, superpose)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Volume or pick file to read.")],
    target: Annotated[Path, typer.Argument(help="File to write; its name says the format.")],
    volume: Tomogram = None,
    file_format: Format = None,
    keep: Annotated[
        Literal["angstrom", "voxels"] | None,
        typer.Option(
            help="What stays of picks that were made on another grid than that of --volume. "
            "Default: voxels if the grids are of one shape or nearly one voxel size, else Å."
        ),
    ] = None,
) -> None:
    """Convert volumes (MRC, VASP, cube, XSF) or picks (see `vox3d formats`) between formats.

    Without --volume the picks of all tomograms of a file are converted; FILE::NAME is one of them.
    """
    with one_line_errors():
        if kind_of(source) == "picks":
            save_picks(target, _read_picks(source, volume, keep), file_format)
        else:
            save_volume(target, vox.read_volumes(source))


@app.command()
def formats() -> None:
    """List the formats of pick files and what each can hold."""
    table = Table("format", "files", "classes", "holds", "tomograms", "needs of the tomogram")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for key, known in PICK_FORMATS.items():
        holds = [name for name in ("scores", "angles", "radii") if getattr(known, name)]
        files = f"*{known.suffix}"
        count = "several" if known.several_tomograms else "one"
        table.add_row(key, files, known.classes, ", ".join(holds), count, ", ".join(known.needs))
    out.print(table)


def _read_picks(
    path: Path,
    tomogram: Path | None,
    keep: Literal["angstrom", "voxels"] | None = None,
) -> list[Picks]:
    """Picks of a tomogram, or of every tomogram of the file."""
    if tomogram is not None:
        return [vox.read_picks(path, vox.read_volume(tomogram), by=keep)]
    return vox.read_pick_collection(path)


def _print_info(path: Path, tomogram: Path | None) -> None:
    table = Table(show_header=False)
    match kind_of(path):
        case "picks":
            for picks in _read_picks(path, tomogram):
                _describe_picks(table, picks)
        case "structure":
            _describe_atoms(table, read_atoms(path))
        case _:
            for volume in vox.read_volumes(path):
                _describe_volume(table, volume)
    out.print(path, soft_wrap=True, highlight=False)
    out.print(table)


def _describe_volume(table: Table, volume: Volume) -> None:
    table.add_section()
    table.add_row("grid", f"{volume.quantity}: " + "×".join(map(str, volume.shape)) + " (z×y×x)")
    size = ", ".join(f"{edge:.4g}" for edge in volume.voxel_size)
    table.add_row("voxel size", f"{size} Å" if volume.calibrated else "not stated in the file")
    if volume.coarser:
        sizes = (f"{level.voxel_size.mean():.4g} Å" for level in volume.coarser)
        table.add_row("coarser levels", ", ".join(sizes))
    table.add_row("origin", ", ".join(f"{x:.4g}" for x in volume.origin) + " Å")
    low, mean, high = _value_range(volume)
    table.add_row("values", f"{low:.6g} … {high:.6g}, mean {mean:.6g} {volume.unit}")
    if volume.unit == "e/Å³":
        table.add_row("electrons", f"{mean * volume.volume:.4f}")
    if volume.atoms is not None:
        _describe_atoms(table, volume.atoms)
    _describe_run(table, volume.metadata)


def _value_range(volume: Volume) -> tuple[float, float, float]:
    """Least, mean and largest value, piece by piece: a tomogram need not fit in memory."""
    ranges = []
    for box in volume.pieces():
        values = np.asarray(volume.values[box])
        values = np.abs(values) if np.iscomplexobj(values) else values
        ranges.append((values.min(), values.sum(dtype=float), values.max()))
    lows, sums, highs = zip(*ranges, strict=True)
    return float(min(lows)), float(sum(sums) / np.prod(volume.shape)), float(max(highs))


def _describe_atoms(table: Table, atoms: Atoms) -> None:
    table.add_row("atoms", f"{atoms.get_chemical_formula()} ({len(atoms)})")
    lengths = ", ".join(f"{value:.4f}" for value in atoms.cell.lengths())
    angles = ", ".join(f"{value:.2f}" for value in atoms.cell.angles())
    table.add_row("cell", f"a, b, c = {lengths} Å; α, β, γ = {angles}°")


def _describe_picks(table: Table, picks: Picks) -> None:
    table.add_section()
    table.add_row("picks", str(len(picks)))
    for label, count in picks.counts().items():
        table.add_row(label, str(count))
    if picks.tomogram:
        table.add_row("tomogram", picks.tomogram)
    if picks.voxel_size is not None:
        table.add_row("voxel size", ", ".join(f"{edge:.4g}" for edge in picks.voxel_size) + " Å")
    _describe_run(table, picks.metadata)


def _describe_run(table: Table, metadata: dict[str, Any]) -> None:
    """Where a result comes from."""
    run = vox.Run.from_metadata(metadata)
    if run is None:
        return
    table.add_row("made by", f"napari-vox3d {run.version}, {run.function}, {run.when}")
    table.add_row("source", run.source)
    if run.model:
        table.add_row("model", f"{run.model} (sha256 {run.sha256 or 'none: no weights'})")
    for name, value in run.arguments.items():
        table.add_row(name, str(value))
    if run.edited:
        table.add_row("since then", "edited by hand")
