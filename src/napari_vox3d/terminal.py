"""What the commands of the shell share: options, errors, progress, and tables."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import napari_vox3d as vox
from napari_vox3d.errors import Vox3dError, as_sentence
from napari_vox3d.formats import PICK_FORMATS
from napari_vox3d.formats.aside import make_folder

if TYPE_CHECKING:
    from napari_vox3d.picks import Picks
    from napari_vox3d.volume import Volume

out = Console()
err = Console(stderr=True)

PickFormat = Enum("PickFormat", {name: name for name in PICK_FORMATS}, type=str)  # type: ignore[misc]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda:0, … or mps.")]
Format = Annotated[
    PickFormat | None,
    typer.Option("--format", help="Format of the picks. Default: the one of the file's name."),
]
Inputs = Annotated[list[Path], typer.Argument(help="Input files.", show_default=False)]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", "--out", help="Output file; a folder if there are several inputs."
    ),
]
VoxelSize = Annotated[
    float | None, typer.Option(help="Å, if the file does not say how large its voxels are.")
]
Spacing = Annotated[
    float | None,
    typer.Option(help="Grid spacing in Å; default: the grid of the source."),
]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an error that the user can mend as one line and exit with status 2."""
    try:
        yield
    except Exception as error:
        if (told := as_sentence(error)) is None:
            raise
        print_error(told)
        raise typer.Exit(2) from None


def for_each(items: Iterable[Any], run: Callable[[Any], None]) -> None:
    """Run on every item; print each failure as one line and exit with status 2 at the end."""
    failed = False
    for item in items:
        try:
            run(item)
        except Exception as error:
            if (told := as_sentence(error)) is None:
                raise
            print_error(told)
            failed = True
    if failed:
        raise typer.Exit(2)


def print_error(error: Vox3dError | str) -> None:
    """Print an error as one line."""
    err.print("[red]error:[/]", Text(str(error)), soft_wrap=True)


def target_path(name: str, output: Path | None, several: bool, suffix: str) -> Path:
    """File to write: `output` itself, or a name made from the source in it or in this folder.

    Raises
    ------
    Vox3dError
        If several files would be written to one.
    """
    if output is not None and not several and not output.is_dir():
        return output
    if output is not None and output.exists() and not output.is_dir():
        raise Vox3dError(f"{output} is a file; give a folder with -o for several inputs.")
    return make_folder(output or Path()) / (name + suffix)


def save_picks(path: Path, picks: Picks | Sequence[Picks], file_format: PickFormat | None) -> None:
    """Write picks of one tomogram or of several, and say how many went where."""
    collection = [picks] if isinstance(picks, vox.Picks) else picks
    written = vox.write_pick_collection(path, collection, file_format and file_format.value)
    total = sum((Counter(part.counts()) for part in collection), Counter())
    counts = ", ".join(f"{count} {label}" for label, count in total.items())
    names = ", ".join(map(str, written))
    of = "" if len(collection) == 1 else f" of {len(collection)} tomograms"
    out.print(f"{names}: {total.total()} picks{of}" + (f" ({counts})" if counts else ""),
              soft_wrap=True, markup=False)  # fmt: skip


def save_volume(path: Path, volume: Volume | Sequence[Volume]) -> None:
    """Write a volume, or those of one file, and say what went where."""
    vox.write_volume(path, volume)
    first = volume if isinstance(volume, vox.Volume) else volume[0]
    grid = "×".join(map(str, first.shape))
    out.print(f"{path}: {first.quantity}, {grid} voxels (z×y×x)", highlight=False, markup=False)


class Bar:
    """A progress bar with a title, as rich shows it.

    Parameters
    ----------
    bar
        Rich's progress with one task.
    title
        Of the task.
    """

    def __init__(self, bar: Any, title: str):
        self._bar, self._title = bar, title
        self._task = bar.add_task(title, total=None)

    def __call__(self, done: int, total: int) -> None:
        """The `progress` callback of the core functions."""
        self._bar.update(self._task, completed=done, total=total)

    def on_step(self, _step: int, loss: float) -> None:
        """The `on_step` callback of training: shows the loss beside the title."""
        self._bar.update(self._task, description=f"{self._title}: loss {loss:.4f}")


@contextmanager
def progress_bar(title: str) -> Iterator[Bar]:
    """Progress bar with time left on stderr; gone at the end."""
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    # What is printed meanwhile goes above the bar; what goes to a file stays out of its way.
    above = sys.stdout.isatty()
    with Progress(*columns, console=err, transient=True, redirect_stdout=above) as bar:
        yield Bar(bar, title)


def numbers_by_class(texts: list[str] | None) -> float | dict[str, float] | None:
    """Read ``"0.5"``, or ``"CLASS=0.5"`` as often as needed.

    Raises
    ------
    typer.BadParameter
        If it is neither.
    """
    if not texts:
        return None
    try:
        if len(texts) == 1 and "=" not in texts[0]:
            return float(texts[0])
        pairs = [text.rsplit("=", 1) for text in texts]
        return {label: float(value) for label, value in pairs}
    except ValueError:
        raise typer.BadParameter(
            f"{' '.join(texts)!r}: give one number, or CLASS=NUMBER as often as needed."
        ) from None


def print_rows(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print a table of rows by column name; fractions get three digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*names, title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in names))
    out.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
