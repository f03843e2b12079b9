"""Many files at once: on this machine or on a cluster, going on where an earlier batch ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_vox3d.batch.finished import why_to_do
from napari_vox3d.batch.local import run_here, run_in_processes
from napari_vox3d.batch.names import target_names
from napari_vox3d.batch.tally import Tally
from napari_vox3d.batch.tasks import Outcome, Task
from napari_vox3d.errors import Vox3dError
from napari_vox3d.formats.aside import make_folder
from napari_vox3d.formats.pick_files import pick_format_to_write
from napari_vox3d.formats.pick_formats import PICK_FORMATS
from napari_vox3d.progress import Progress

if TYPE_CHECKING:
    from napari_vox3d.models.card import ModelCard
    from napari_vox3d.models.card import Task as ModelTask

__all__ = ["ELF_FORMATS", "Outcome", "collection_path", "pick_files", "predict_elf_files"]

Paths = Sequence[str | Path]
OnOutcome = Callable[[Outcome], None]

ELF_FORMATS = {"ELFCAR": ".ELFCAR", "cube": ".cube", "xsf": ".xsf"}
"""What the name of a predicted ELF ends with, by format."""
_COLLECTION = "all_tomograms"


def pick_files(
    tomograms: Paths,
    folder: str | Path,
    model: str | Path = "default",
    *,
    format: str = "relion5",
    one_file: bool = False,
    jobs: int = 1,
    scheduler: str | None = None,
    cluster_config: str | Path | None = None,
    overwrite: bool = False,
    threshold: float | Mapping[str, float] | None = None,
    min_distance: float | Mapping[str, float] | None = None,
    contrast: str | None = None,
    classes: Sequence[str] | None = None,
    voxel_size: float | None = None,
    flips: bool = False,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
    on_outcome: OnOutcome | None = None,
) -> list[Outcome]:
    """Pick particles in many tomograms, one file of picks for each.

    A tomogram whose picks are there, not older than itself and, if they tell of their `Run`, found
    with the same model and settings, is skipped, so that the same call again does what is missing.
    So is one whose picks were edited by hand. What goes wrong with one file does not stop the
    others.

    Parameters
    ----------
    tomograms
        Files of tomograms.
    folder
        Where the picks go; it is made if need be. They are named after their tomograms; tomograms
        of one name in several folders are told apart by the names of these.
    model
        Name from `list_models`, or path of a model.
    format
        One of `PICK_FORMATS`.
    one_file
        Also write the picks of all tomograms into one file: ``all_tomograms`` with the suffix of
        the format, in `folder`. If `folder` itself has that suffix, or is a copick project, it is
        the name of that file, and the others go to a folder beside it. The others are kept: a
        later call goes on from them. Where the format has no names of classes, and beside a
        project, they are RELION 5's.
    jobs
        Files at a time: processes that share the cores of this machine, or workers to ask a
        cluster for. Each has a GPU of its own as far as there are enough.
    scheduler
        None for this machine; the address of a dask scheduler (``"tcp://host:8786"``); or
        ``"slurm"``, ``"pbs"``, ``"lsf"`` to start workers as jobs of a cluster. Files must then
        have the same paths on all machines.
    cluster_config
        YAML file with the settings of dask-jobqueue for these jobs; default: dask's own.
    overwrite
        Do all files again.
    threshold, min_distance, contrast, classes, voxel_size, flips, device, precision
        See `pick_particles`. With ``"auto"`` or ``"cuda"`` each process has its own GPU.
    progress
        Called with thousandths of files, of all that are to do; may raise `Cancelled`.
    on_outcome
        Called in this thread with the `Outcome` of each file, as soon as it is known.

    Returns
    -------
    list of Outcome
        One for each tomogram, in their order.

    Raises
    ------
    Vox3dError
        If nothing can be done at all: the model is unknown, two results would have one name, the
        scheduler does not answer, a package is missing, and the like.
    Cancelled
        If `progress` raises it. All processes end within a second; finished files stay.
    """
    known = _pick_format(format, one_file)
    cards = _cards(model, "picking", threshold, min_distance, dict.fromkeys(classes or ()))
    parts, collection = Path(folder), None
    part_format = format
    if one_file:
        parts, collection = collection_path(folder, format)
        named = known.classes == "names" and format != "copick-project"
        part_format = format if named else "relion5"
    suffix = PICK_FORMATS[part_format].suffix
    options: dict[str, Any] = {
        "threshold": threshold if isinstance(threshold, float | int | None) else dict(threshold),
        "min_distance": (
            min_distance if isinstance(min_distance, float | int | None) else dict(min_distance)
        ),
        "contrast": contrast,
        "classes": None if classes is None else list(classes),
        "voxel_size": voxel_size,
        "device": device,
        "precision": precision,
    }
    if flips:
        options["flips"] = True
    names = target_names(tomograms, suffix, stem=True)
    tasks = [
        _task("picking", source, parts / (name.own + suffix), model, options,
              format=part_format, name=name.own if name.told_apart else None)
        for source, name in zip(tomograms, names, strict=True)
    ]  # fmt: skip
    whys = ["" if overwrite else why_to_do(task, cards) for task in tasks]
    outcomes = _run(tasks, whys, parts, jobs, scheduler, cluster_config, progress, on_outcome)
    if collection is None:
        return outcomes
    return _collect(tasks, outcomes, collection, format)


def predict_elf_files(
    sources: Paths,
    folder: str | Path,
    model: str | Path = "default",
    *,
    format: str = "ELFCAR",
    spacing: float | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    cluster_config: str | Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
    uncertainty: bool = False,
    tables: str | Path | None = None,
    progress: Progress | None = None,
    on_outcome: OnOutcome | None = None,
) -> list[Outcome]:
    """Predict the ELF of many crystals, one file for each.

    A crystal whose ELF is there, not older than itself and of the same model and settings is
    skipped, so that the same call again does what is missing. What goes wrong with one file does
    not stop the others.

    Parameters
    ----------
    sources
        Structures (POSCAR, CIF) and volumes that carry one (CHGCAR, …).
    folder
        Where the results go; it is made if need be. They are named after their sources, sources of
        one name in several folders also after these: ``a/POSCAR`` gives ``a_POSCAR.ELFCAR``.
    model
        Name from `list_models`, or path of a model.
    format
        ``"ELFCAR"``, ``"cube"`` or ``"xsf"``.
    spacing
        Å between grid points; default: as `predict_elf`.
    jobs, scheduler, cluster_config, overwrite, progress, on_outcome
        See `pick_files`.
    uncertainty
        Also write how far off each ELF may be, ``NAME.uncertainty`` beside it; see `predict_elf`.
    device, precision, tables
        See `predict_elf`. With ``"auto"`` or ``"cuda"`` each process has its own GPU.

    Returns
    -------
    list of Outcome
        One for each source, in their order.

    Raises
    ------
    Vox3dError
        If nothing can be done at all; see `pick_files`.
    Cancelled
        If `progress` raises it. All processes end within a second; finished files stay.
    """
    if format not in ELF_FORMATS:
        raise Vox3dError(f"An ELF can be written as {', '.join(ELF_FORMATS)}, not {format!r}.")
    cards = _cards(model, "elf")
    options: dict[str, Any] = {"spacing": spacing, "device": device, "precision": precision}
    if uncertainty:
        options["uncertainty"] = True
    if tables is not None:
        options["tables"] = str(Path(tables).expanduser().absolute())
    suffix, folder = ELF_FORMATS[format], Path(folder)
    tasks = [
        _task("elf", source, folder / (name.own + suffix), model, options)
        for source, name in zip(sources, target_names(sources, suffix), strict=True)
    ]
    whys = ["" if overwrite else why_to_do(task, cards) for task in tasks]
    return _run(tasks, whys, folder, jobs, scheduler, cluster_config, progress, on_outcome)


def collection_path(folder: str | Path, format: str) -> tuple[Path, Path]:
    """Folder of the single files, and path of the file of all tomograms, that `pick_files` uses."""
    folder, suffix = Path(folder), PICK_FORMATS[format].suffix
    if folder.name.lower().endswith(suffix):
        return folder.with_name(folder.name[: -len(suffix)]), folder
    if format == "copick-project" and pick_format_to_write(folder) == format:  # of another name
        return folder.with_name(f"{folder.stem}_picks"), folder
    return folder, folder / (_COLLECTION + suffix)


def _run(
    tasks: Sequence[Task],
    whys: Sequence[str | None],
    folder: Path,
    jobs: int,
    scheduler: str | None,
    cluster_config: str | Path | None,
    progress: Progress | None,
    on_outcome: OnOutcome | None,
) -> list[Outcome]:
    """Carry out the tasks that there is a reason for; the outcome of each, in their order."""
    if jobs < 1:
        raise Vox3dError(f"A batch needs at least one job at a time, not {jobs}.")
    if folder.exists() and not folder.is_dir():
        raise Vox3dError(f"{folder} is a file; several results need a folder.")
    make_folder(folder)
    outcomes = [Outcome(task.source, task.targets, 0.0, None, "skipped") for task in tasks]
    if on_outcome is not None:
        for outcome, why in zip(outcomes, whys, strict=True):
            if why is None:
                on_outcome(outcome)
    reasons = {place: why for place, why in enumerate(whys) if why is not None}
    todo = [replace(tasks[place], again=why) for place, why in reasons.items()]
    tally = Tally(len(todo), progress, on_outcome)
    if not todo:
        return outcomes
    if scheduler is not None:
        from napari_vox3d.batch.cluster import run_on_dask

        run_on_dask(todo, tally, scheduler, jobs, cluster_config)
    elif jobs == 1:
        run_here(todo, tally)
    else:
        run_in_processes(todo, tally, min(jobs, len(todo)))
    for number, place in enumerate(reasons):
        outcomes[place] = tally.outcomes[number]
    return outcomes


def _task(kind: Any, source: str | Path, target: Path, model: str | Path, options: dict[str, Any],
          **more: Any) -> Task:  # fmt: skip
    local = Path(model).expanduser()
    model = str(local.absolute()) if local.exists() else str(model)
    return Task(kind, str(source), str(target), model, options, **more)


def _cards(model: str | Path, task: ModelTask, *by_class: object) -> list[ModelCard]:
    """Models that files may find by a name; says at once what would go wrong with every file."""
    from napari_vox3d.models import list_models, load_model

    card = load_model(model, task).card
    names = [particle.name for particle in card.classes]
    for given in by_class:
        unknown = sorted(set(given) - set(names)) if isinstance(given, Mapping) else []
        if unknown:
            known = ", ".join(names)
            raise Vox3dError(f"Model {card.name!r} knows no {unknown[0]!r}; it knows {known}.")
    # Which of the default models for an ELF it is depends on the source.
    return [card for card in list_models(task) if card.default] if model == "default" else [card]


def _pick_format(name: str, one_file: bool) -> Any:
    if name not in PICK_FORMATS:
        raise Vox3dError(f"No pick format is called {name!r}; there are {', '.join(PICK_FORMATS)}.")
    if one_file and not PICK_FORMATS[name].several_tomograms:
        fitting = ", ".join(key for key, known in PICK_FORMATS.items() if known.several_tomograms)
        raise Vox3dError(f"A file of {name} holds one tomogram; one file for all: {fitting}.")
    return PICK_FORMATS[name]


def _collect(
    tasks: Sequence[Task], outcomes: Sequence[Outcome], path: Path, format: str
) -> list[Outcome]:
    """Write the picks that are there into one file, and add it to the targets."""
    from napari_vox3d.formats import read_picks, read_volume, write_pick_collection

    picks = []
    for task, outcome in zip(tasks, outcomes, strict=True):
        if outcome.state != "failed":
            tomogram = read_volume(task.source)
            if task.name is not None:
                tomogram = replace(tomogram, name=task.name)
            picks.append(read_picks(task.target, tomogram, task.format))
    if not picks:
        return list(outcomes)
    written = tuple(str(one) for one in write_pick_collection(path, picks, format=format))
    return [
        outcome if outcome.state == "failed"
        else replace(outcome, targets=tuple(dict.fromkeys(outcome.targets + written)))
        for outcome in outcomes
    ]  # fmt: skip
