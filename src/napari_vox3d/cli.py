"""`vox3d`: everything the windows do, from the shell.

Each command is a thin layer over the public functions. A problem with one input is printed as one
line, the other inputs go on, and the exit status is 2.
"""

from __future__ import annotations

import warnings
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.table import Table

import napari_vox3d as vox
from napari_vox3d import cli_analysis, cli_models, cli_samples, cli_training
from napari_vox3d.errors import Vox3dError
from napari_vox3d.formats import PICK_FORMATS, kind_of, read_atoms
from napari_vox3d.formats.compression import plain_name
from napari_vox3d.terminal import (
    Device,
    err,
    for_each,
    numbers_by_class,
    one_line_errors,
    out,
    progress_bar,
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
for room in (cli_models, cli_analysis, cli_samples, cli_training):
    for name, command in room.COMMANDS.items():
        app.command(name)(command)

Contrast = Enum("Contrast", {"dark": "dark", "bright": "bright"})
PickFormat = Enum("PickFormat", {name: name for name in PICK_FORMATS}, type=str)  # type: ignore[misc]
Format = Annotated[
    PickFormat | None,
    typer.Option("--format", help="Format of the picks. Default: the one of the file's name."),
]
Inputs = Annotated[list[Path], typer.Argument(help="Input files.", show_default=False)]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Output file; a folder if there are several inputs."),
]
ModelName = Annotated[str, typer.Option("--model", "-m", help="Model name, folder or file.")]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Tomogram = Annotated[
    Path | None, typer.Option(help="Tomogram that picks belong to (gives size and voxel size).")
]
Spacing = Annotated[
    float | None,
    typer.Option(help="Grid spacing in Å; default: the grid of the source."),
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
def elf(
    sources: Inputs,
    output: Output = None,
    model: ModelName = "default",
    spacing: Spacing = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Predict the ELF of structures (POSCAR, CIF) or on the grid of volumes (CHGCAR, …).

    Without -o the result of NAME is written to NAME.ELFCAR in the working folder.
    """
    options: dict[str, Any] = {
        "model": model,
        "spacing": spacing,
        "device": device,
        "precision": precision,
    }

    def predict(path: Path) -> None:
        with progress_bar(path.name) as progress:
            volume = vox.predict_elf(path, progress=progress, **options)
        _save_volume(_target(plain_name(path), output, len(sources) > 1, ".ELFCAR"), volume)

    for_each(sources, predict)


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
        _save_volume(_target(plain_name(path), output, len(sources) > 1, ".SAD.CHGCAR"), volume)

    for_each(sources, superpose)


@app.command()
def pick(
    tomograms: Inputs,
    output: Output = None,
    model: ModelName = "default",
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="Score threshold, or CLASS=VALUE (repeat for several classes)."),
    ] = None,
    min_distance: Annotated[
        float | None, typer.Option(help="Least distance between picks of a class in Å.")
    ] = None,
    file_format: Format = None,
    contrast: Annotated[
        Contrast | None, typer.Option(help="How particles look. Default: as the model expects.")
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Pick particles in tomograms and write them in a format of `vox3d formats`.

    Without -o the picks of NAME are written to NAME.star in the working folder.
    """
    options: dict[str, Any] = {
        "model": model,
        "contrast": contrast and contrast.value,
        "device": device,
        "precision": precision,
    }
    thresholds = numbers_by_class(threshold)

    def pick_one(path: Path) -> None:
        tomogram = vox.read_volume(path)
        with progress_bar(path.name) as progress:
            maps = vox.score_particles(tomogram, progress=progress, **options)
        picks = vox.find_particles(maps, threshold=thresholds, min_distance=min_distance)
        suffix = PICK_FORMATS[file_format.value if file_format else "relion5"].suffix
        # No pick file goes without a suffix, so a bare name is a folder even for one tomogram.
        folder = output is not None and not output.suffix
        target = _target(Path(plain_name(path)).stem, output, len(tomograms) > 1 or folder, suffix)
        _save_picks(target, picks, file_format)

    for_each(tomograms, pick_one)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Volume or pick file to read.")],
    target: Annotated[Path, typer.Argument(help="File to write; its name says the format.")],
    volume: Tomogram = None,
    file_format: Format = None,
) -> None:
    """Convert volumes (MRC, VASP, cube, XSF) or picks (see `vox3d formats`) between formats."""
    with one_line_errors():
        if kind_of(source) == "picks":
            picks = _read_picks(source, volume)
            _save_picks(target, picks, file_format)
        else:
            _save_volume(target, vox.read_volume(source))


@app.command()
def formats() -> None:
    """List the formats of pick files and what each can hold."""
    table = Table("format", "files", "classes", "holds", "needs of the tomogram")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for key, known in PICK_FORMATS.items():
        holds = [name for name in ("scores", "angles", "radii") if getattr(known, name)]
        files = f"*{known.suffix}"
        table.add_row(key, files, known.classes, ", ".join(holds), ", ".join(known.needs))
    out.print(table)


def _target(name: str, output: Path | None, several: bool, suffix: str) -> Path:
    """File to write: `output` itself, or a name made from the source in it or in this folder."""
    if output is not None and not several and not output.is_dir():
        return output
    if output is not None and output.exists() and not output.is_dir():
        raise Vox3dError(f"{output} is a file; give a folder with -o for several inputs.")
    folder = output or Path()
    folder.mkdir(parents=True, exist_ok=True)
    return folder / (name + suffix)


def _save_picks(path: Path, picks: Picks, file_format: PickFormat | None) -> None:
    written = vox.write_picks(path, picks, format=file_format and file_format.value)
    counts = ", ".join(f"{count} {label}" for label, count in picks.counts().items())
    names = ", ".join(map(str, written))
    out.print(f"{names}: {len(picks)} picks" + (f" ({counts})" if counts else ""), soft_wrap=True)


def _save_volume(path: Path, volume: Volume) -> None:
    vox.write_volume(path, volume)
    grid = "×".join(map(str, volume.shape))
    out.print(f"{path}: {volume.quantity}, {grid} voxels (z×y×x)", highlight=False)


def _read_picks(path: Path, tomogram: Path | None) -> Picks:
    return vox.read_picks(path, None if tomogram is None else vox.read_volume(tomogram))


def _print_info(path: Path, tomogram: Path | None) -> None:
    table = Table(show_header=False)
    match kind_of(path):
        case "picks":
            _describe_picks(table, _read_picks(path, tomogram))
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
    table.add_row("origin", ", ".join(f"{x:.4g}" for x in volume.origin) + " Å")
    low, mean, high = _value_range(volume)
    table.add_row("values", f"{low:.6g} … {high:.6g}, mean {mean:.6g} {volume.unit}")
    if volume.unit == "e/Å³":
        table.add_row("electrons", f"{mean * volume.volume:.4f}")
    if volume.atoms is not None:
        _describe_atoms(table, volume.atoms)


def _value_range(volume: Volume) -> tuple[float, float, float]:
    """Least, mean and largest value, slice by slice: a tomogram need not fit in memory."""
    ranges = []
    for values in volume.values:
        values = np.abs(values) if np.iscomplexobj(values) else np.asarray(values)
        ranges.append((values.min(), values.mean(dtype=float), values.max()))
    lows, means, highs = zip(*ranges, strict=True)
    return float(min(lows)), float(np.mean(means)), float(max(highs))


def _describe_atoms(table: Table, atoms: Atoms) -> None:
    table.add_row("atoms", f"{atoms.get_chemical_formula()} ({len(atoms)})")
    lengths = ", ".join(f"{value:.4f}" for value in atoms.cell.lengths())
    angles = ", ".join(f"{value:.2f}" for value in atoms.cell.angles())
    table.add_row("cell", f"a, b, c = {lengths} Å; α, β, γ = {angles}°")


def _describe_picks(table: Table, picks: Picks) -> None:
    table.add_row("picks", str(len(picks)))
    for label, count in picks.counts().items():
        table.add_row(label, str(count))
    if picks.tomogram:
        table.add_row("tomogram", picks.tomogram)
    if picks.voxel_size is not None:
        table.add_row("voxel size", ", ".join(f"{edge:.4g}" for edge in picks.voxel_size) + " Å")
