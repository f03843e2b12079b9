"""Commands of `vox3d` that run a model, on one file or on many: pick, elf."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

import napari_vox3d as vox
from napari_vox3d.batch import ELF_FORMATS, Outcome, collection_path
from napari_vox3d.errors import Vox3dError
from napari_vox3d.formats import PICK_FORMATS, split_address
from napari_vox3d.formats.compression import plain_name
from napari_vox3d.formats.copick_project import tomograms_of
from napari_vox3d.formats.pick_files import pick_format_to_write
from napari_vox3d.provenance.files import uncertainty_file
from napari_vox3d.terminal import (
    Device,
    Format,
    Inputs,
    Output,
    Spacing,
    VoxelSize,
    err,
    numbers_by_class,
    one_line_errors,
    out,
    print_error,
    progress_bar,
    save_picks,
    save_volume,
    target_path,
)

if TYPE_CHECKING:
    from napari_vox3d.volume import Volume

Contrast = Enum("Contrast", {"dark": "dark", "bright": "bright", "auto": "auto"})
ElfFormat = Enum("ElfFormat", {name: name for name in ELF_FORMATS}, type=str)  # type: ignore[misc]
ModelName = Annotated[str, typer.Option("--model", "-m", help="Model name, folder or file.")]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, help="Files at a time; workers to start on a cluster."),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="tcp://HOST:PORT of a dask scheduler; or slurm, pbs, lsf to start workers."),
]
ClusterConfig = Annotated[
    Path | None, typer.Option(help="YAML file with settings of dask-jobqueue for --scheduler.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Do files again whose results are there.")
]


def pick(
    tomograms: Inputs,
    output: Output = None,
    model: ModelName = "default",
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="Score threshold, or CLASS=VALUE (repeat for several classes)."),
    ] = None,
    min_distance: Annotated[
        list[str] | None,
        typer.Option(help="Least distance between picks of a class in Å, or CLASS=Å (repeat it)."),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="Find only this class (repeat for several)."),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(help="Voxels to pick in, z,y,x, each START:STOP or : for all; one tomogram."),
    ] = None,
    voxel_size: VoxelSize = None,
    member: Annotated[
        int, typer.Option(min=0, help="Which volume of a file with several, from 0; one file.")
    ] = 0,
    file_format: Format = None,
    one_file: Annotated[
        bool, typer.Option("--one-file", help="Also write one file with the picks of all.")
    ] = False,
    contrast: Annotated[
        Contrast | None,
        typer.Option(help="How particles look; auto finds out. Default: as the model expects."),
    ] = None,
    flips: Annotated[
        bool, typer.Option("--flips", help="Average over mirror images; four times slower.")
    ] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    jobs: Jobs = None,
    scheduler: Scheduler = None,
    cluster_config: ClusterConfig = None,
    overwrite: Overwrite = False,
) -> None:
    """Pick particles in tomograms and write them in a format of `vox3d formats`.

    The configuration of a copick project stands for its tomograms, config.json::RUN for one.

    Without -o the picks of NAME are written to NAME.star in the working folder. Of several
    tomograms those are skipped whose picks are there, not older, and of the same settings; one
    that cannot be picked does not stop the others, and a table tells what became of them.
    """
    options: dict[str, Any] = {
        "threshold": numbers_by_class(threshold),
        "min_distance": numbers_by_class(min_distance),
        "classes": classes,
        "voxel_size": voxel_size,
        "contrast": contrast and contrast.value,
        "flips": flips,
        "device": device,
        "precision": precision,
    }
    with one_line_errors():
        tomograms = [one for path in tomograms for one in _tomograms_of(path)]
    if len(tomograms) == 1 and not (one_file or jobs or scheduler):
        options |= {"region": None if region is None else _slices(region)}
        _pick_one(tomograms[0], member, output, model, file_format, options)
        return
    if region is not None or member:
        raise typer.BadParameter("--region and --member are for one tomogram.")
    named = None if output is None or output.is_dir() else pick_format_to_write(output)
    with one_line_errors():
        if named and not one_file:
            raise Vox3dError(f"{output} names one file; add --one-file, or give a folder.")
    name = file_format.value if file_format else named or "relion5"
    folder = output or Path()
    _run_batch(
        vox.pick_files, tomograms, folder, model, format=name, one_file=one_file,
        together=collection_path(folder, name)[1] if one_file else None,
        **options, **_how(jobs, scheduler, cluster_config, overwrite),
    )  # fmt: skip


def elf(
    sources: Inputs,
    output: Output = None,
    model: ModelName = "default",
    spacing: Spacing = None,
    shape: Annotated[
        tuple[int, int, int] | None,
        typer.Option(help="Grid points along c, b and a instead of a spacing; of one source."),
    ] = None,
    file_format: Annotated[
        ElfFormat | None, typer.Option("--format", help="Of several results. Default: ELFCAR.")
    ] = None,
    uncertainty: Annotated[
        bool,
        typer.Option("--uncertainty", help="Write how far off it may be too: NAME.uncertainty.*"),
    ] = False,
    tables: Annotated[
        Path | None,
        typer.Option(help="Folder neutral_densities of ELFNet, for its published checkpoints."),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    jobs: Jobs = None,
    scheduler: Scheduler = None,
    cluster_config: ClusterConfig = None,
    overwrite: Overwrite = False,
) -> None:
    """Predict the ELF of structures (POSCAR, CIF) or on the grid of volumes (CHGCAR, …).

    Without -o the result of NAME is written to NAME.ELFCAR in the working folder. Of several
    sources those are skipped whose result is there, not older, and of the same settings; one that
    fails does not stop the others, and a table tells what became of them.
    """
    options: dict[str, Any] = {"spacing": spacing, "device": device, "precision": precision,
                               "uncertainty": uncertainty, "tables": tables}  # fmt: skip
    kind = file_format.value if file_format else "ELFCAR"
    if len(sources) == 1 and not (jobs or scheduler):
        with one_line_errors():
            path = sources[0]
            target = target_path(plain_name(path), output, False, ELF_FORMATS[kind])
            with progress_bar(path.name) as progress:
                made = vox.predict_elf(path, model, shape=shape, progress=progress, **options)
            _save_elf(target, *(made if isinstance(made, tuple) else (made,)))
        return
    if shape is not None:
        raise typer.BadParameter("--shape is for one source.")
    _run_batch(
        vox.predict_elf_files, sources, output or Path(), model, format=kind, **options,
        **_how(jobs, scheduler, cluster_config, overwrite),
    )  # fmt: skip


def _save_elf(target: Path, elf: Volume, uncertainty: Volume | None = None) -> None:
    """Write an ELF, and how far off it may be; say the latter in a number."""
    from napari_vox3d.inference.elf import stated_error

    save_volume(target, elf)
    if uncertainty is not None:
        save_volume(Path(uncertainty_file(str(target))), uncertainty)
    if stated := stated_error(elf):
        out.print(f"{stated}, means over the cell", highlight=False)


def _tomograms_of(path: Path) -> list[Path]:
    """The path itself, or the tomograms of a copick project."""
    file, part = split_address(path)
    if file.suffix != ".json" or not file.is_file():
        return [path]
    return [Path(address) for address in tomograms_of(file, part)]


def _pick_one(
    path: Path,
    member: int,
    output: Path | None,
    model: str,
    file_format: Any,
    options: dict[str, Any],
) -> None:
    # No pick file goes without a suffix, so a bare name is a folder even for one tomogram.
    folder = output is not None and not output.suffix
    suffix = PICK_FORMATS[file_format.value if file_format else "relion5"].suffix
    with one_line_errors():
        target = target_path(Path(plain_name(path)).stem, output, folder, suffix)
        volumes = vox.read_volumes(path)
        if member >= len(volumes):
            raise Vox3dError(f"{path} holds {len(volumes)} volumes; there is no member {member}.")
        tomogram = volumes[member]
        with progress_bar(path.name) as progress:
            picks = vox.pick_particles(tomogram, model, progress=progress, **options)
        save_picks(target, picks, file_format)


def _slices(region: str) -> list[slice]:
    """Read ``"0:40,:,10:90"``."""
    try:
        bounds = [[int(n) if n else None for n in part.split(":")] for part in region.split(",")]
    except ValueError:
        bounds = []
    if len(bounds) != 3 or any(len(part) != 2 for part in bounds):
        raise typer.BadParameter(f"{region!r}: give START:STOP along z, y and x, as 0:40,:,10:90.")
    return [slice(*part) for part in bounds]


def _how(
    jobs: int | None, scheduler: str | None, cluster_config: Path | None, overwrite: bool
) -> dict[str, Any]:
    return {
        "jobs": jobs or 1,
        "scheduler": scheduler,
        "cluster_config": cluster_config,
        "overwrite": overwrite,
    }


def _run_batch(
    function: Callable[..., list[Outcome]],
    sources: Sequence[Path],
    *args: Any,
    together: Path | None = None,
    **options: Any,
) -> None:
    """Run a batch with a bar, a line for each file and a table; status 2 if any file failed.

    `together` is the file with the results of all, if there is one.
    """
    with one_line_errors():
        try:
            with progress_bar(f"{len(sources)} files") as progress:
                outcomes = function(sources, *args, progress=progress, on_outcome=_tell, **options)
        except KeyboardInterrupt:
            err.print("Stopped. Finished files stay; give the same command to go on.")
            raise typer.Exit(130) from None
    _print_summary(outcomes)
    if together is not None and together.exists():
        out.print(f"{together}: the picks of all", soft_wrap=True, highlight=False, markup=False)
    if any(outcome.state == "failed" for outcome in outcomes):
        raise typer.Exit(2)


def _tell(outcome: Outcome) -> None:
    if outcome.state == "failed":
        print_error(outcome.problem)
    elif outcome.state == "done":
        found = "" if outcome.count is None else f"{outcome.count} picks, "
        names = ", ".join(outcome.targets)
        out.print(f"{names}: {found}{outcome.seconds:.1f} s", soft_wrap=True, markup=False)


def _print_summary(outcomes: Sequence[Outcome]) -> None:
    table = Table("result", "files", "picks", "which")
    for state in ("done", "skipped", "failed"):
        some = [outcome for outcome in outcomes if outcome.state == state]
        picks = [outcome.count for outcome in some if outcome.count is not None]
        again = Counter(outcome.again for outcome in some if outcome.again)
        which = {
            "done": "; ".join(f"{count} again: {why}" for why, count in again.items()),
            "skipped": "results are there; --overwrite does them again",
            "failed": ", ".join(Path(outcome.source).name for outcome in some),
        }[state]
        if some:
            table.add_row(state, str(len(some)), str(sum(picks)) if picks else "", Text(which))
    out.print(table)


COMMANDS: dict[str, Callable[..., None]] = {"elf": elf, "pick": pick}
