"""What the commands of the shell share: options, errors, progress, and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from napari_vox3d.errors import Vox3dError

out = Console()
err = Console(stderr=True)

Device = Annotated[str, typer.Option(help="auto, cpu, cuda:0, … or mps.")]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an error that the user can mend as one line and exit with status 2."""
    try:
        yield
    except Vox3dError as error:
        _print_error(error)
        raise typer.Exit(2) from None


def for_each(items: Iterable[Any], run: Callable[[Any], None]) -> None:
    """Run on every item; print each failure as one line and exit with status 2 at the end."""
    failed = False
    for item in items:
        try:
            run(item)
        except Vox3dError as error:
            _print_error(error)
            failed = True
    if failed:
        raise typer.Exit(2)


def _print_error(error: Vox3dError) -> None:
    err.print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)


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
    with Progress(*columns, console=err, transient=True) as bar:
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
