"""A table of files that something is done to, with what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QGridLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_vox3d.errors import Vox3dError
from napari_vox3d.formats import kind_of
from napari_vox3d.gui.drops import FileDrops

if TYPE_CHECKING:
    from napari_vox3d.batch import Outcome

COLUMNS = ("File", "State")
COLOURS = {"done": "#7ac47a", "failed": "#f07178", "skipped": "#9aa4b0", "running": "#8ab4f8"}
HEIGHT = 170  # pixels: some files and their states


class FileTable(QWidget):
    """List of files to work on: chosen, dropped, or taken from open layers.

    Parameters
    ----------
    open_files
        Gives the files of the layers that are open, and a sentence on those left out.
    say
        Called with sentences for the user.

    Attributes
    ----------
    kinds
        What files may hold, as `kind_of` says it.
    changed
        Qt signal, emitted when files were added or removed.
    opened
        Qt signal, emitted with the `Outcome` of a file that is clicked twice.
    """

    changed = Signal()
    opened = Signal(object)

    def __init__(
        self, open_files: Callable[[], tuple[list[Path], str]], say: Callable[[str], None]
    ):
        super().__init__()
        self._open_files, self._say = open_files, say
        self._rows: dict[Path, QTreeWidgetItem] = {}
        self.kinds: tuple[str, ...] = ()
        self._locked = False
        self.table = QTreeWidget(
            toolTip="Drop files or folders here. Choose a line to read all of it; click a "
            "finished file twice to see its result."
        )
        self.table.setHeaderLabels(COLUMNS)
        self.table.setRootIsDecorated(False)
        self.table.setUniformRowHeights(True)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.table.setMinimumHeight(HEIGHT)
        self.table.header().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.empty = QLabel("Drop files or a folder here,\nor press a button below.")
        self.empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        QVBoxLayout(self.table).addWidget(self.empty)
        self.files = QPushButton("Add files…", toolTip="Choose files on the disk.")
        self.folder = QPushButton("Add folder…", toolTip="Add all files of a folder that fit.")
        self.layers = QPushButton("Add layers", toolTip="Add the files of what is open here.")
        self.remove = QPushButton(
            "Remove", toolTip="Take the chosen files off the list, or all; none is deleted."
        )
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.table, 0, 0, 1, 2)
        for n, button in enumerate((self.files, self.folder, self.layers, self.remove)):
            layout.addWidget(button, 1 + n // 2, n % 2)
        FileDrops(self.table, self.add)
        self.table.itemSelectionChanged.connect(self._tell)
        self.table.itemDoubleClicked.connect(self._open)
        self.files.clicked.connect(self._ask_for_files)
        self.folder.clicked.connect(self._ask_for_folder)
        self.layers.clicked.connect(self._add_layers)
        self.remove.clicked.connect(self.remove_chosen)

    @property
    def paths(self) -> list[Path]:
        """The files in their order."""
        return list(self._rows)

    def add(self, paths: Iterable[Path]) -> None:
        """List files, and of folders all files of the kinds wanted."""
        if self._locked:
            self._say("Files can be added when the batch has ended.")
            return
        left_out = []
        for path in map(Path.absolute, paths):
            if self._fits(path):
                self._list(path)
            elif path.is_dir():
                for inside in sorted(path.iterdir()):
                    if self._fits(inside):
                        self._list(inside)
            else:
                left_out.append(path.name)
        if left_out:
            names = ", ".join(left_out[:3]) + (", …" if len(left_out) > 3 else "")
            self._say(f"Left out, because nothing can be predicted from it: {names}.")
        self.changed.emit()

    def remove_chosen(self) -> None:
        """Take the chosen files off the list; all of them if none is chosen."""
        chosen = self.table.selectedItems() or list(self._rows.values())
        for path in [path for path, row in self._rows.items() if row in chosen]:
            row = self._rows.pop(path)
            self.table.takeTopLevelItem(self.table.indexOfTopLevelItem(row))
        self.empty.setVisible(not self._rows)
        self.changed.emit()

    def replace(self, paths: Iterable[Path]) -> None:
        """List other files instead."""
        self._rows.clear()
        self.table.clear()
        for path in paths:
            self._list(path)
        self.empty.setVisible(not self._rows)
        self.changed.emit()

    def lock(self, locked: bool) -> None:
        """Let the list be changed or not; it can be read all the time."""
        self._locked = locked
        for button in (self.files, self.folder, self.layers, self.remove):
            button.setEnabled(not locked)

    def show_state(self, path: Path, state: str, text: str = "", details: str = "") -> None:
        """Show how far a file is.

        Parameters
        ----------
        path
            One of `paths`; another is ignored.
        state
            ``"waiting"``, ``"running"``, ``"done"``, ``"skipped"`` or ``"failed"``.
        text
            What is shown; default: the state.
        details
            What is said when the line is chosen.
        """
        row = self._rows.get(path)
        if row is None:
            return
        row.setText(1, text or state)
        row.setToolTip(1, details or text)
        row.setData(1, Qt.ItemDataRole.UserRole, state)
        colour = COLOURS.get(state)
        row.setData(1, Qt.ItemDataRole.ForegroundRole, QColor(colour) if colour else None)

    def show_outcome(self, outcome: Outcome) -> None:
        """Show what became of a file."""
        found = "" if outcome.count is None else f" · {outcome.count} picks"
        problem = outcome.problem.removeprefix(f"{outcome.source}: ")
        texts = {
            "done": f"done{found}",
            "skipped": "skipped · is there",
            "failed": f"failed · {problem}",
        }
        written = ", ".join(outcome.targets)
        again = f" ({outcome.again})" if outcome.again else ""
        details = {
            "done": f"{written} in {outcome.seconds:.1f} s{again}",
            "skipped": f"{written} is there, of the same settings and not older than its source.",
            "failed": problem,
        }
        state, path = outcome.state, Path(outcome.source)
        self.show_state(path, state, texts[state], details[state])
        if path in self._rows:
            self._rows[path].setData(0, Qt.ItemDataRole.UserRole, outcome)

    def state(self, path: Path) -> str:
        """State of a file, as `show_state` was told."""
        return self._rows[path].data(1, Qt.ItemDataRole.UserRole)

    def _list(self, path: Path) -> None:
        if path not in self._rows:
            self._rows[path] = row = QTreeWidgetItem(self.table, [path.name, ""])
            row.setToolTip(0, str(path))
            self.show_state(path, "waiting")
            self.empty.hide()

    def _fits(self, path: Path) -> bool:
        try:
            return not path.name.startswith(".") and kind_of(path) in self.kinds
        except Vox3dError:
            return False

    def _tell(self) -> None:
        rows = self.table.selectedItems()
        if len(rows) == 1 and rows[0].toolTip(1):
            self._say(f"{rows[0].toolTip(0)}: {rows[0].toolTip(1)}")

    def _open(self, row: QTreeWidgetItem) -> None:
        outcome = row.data(0, Qt.ItemDataRole.UserRole)
        if outcome is not None and outcome.targets:
            self.opened.emit(outcome)

    def _ask_for_files(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Files")
        self.add(map(Path, paths))

    def _ask_for_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Folder")
        if path:
            self.add([Path(path)])

    def _add_layers(self) -> None:
        paths, problem = self._open_files()
        self.add(paths)
        if problem:
            self._say(problem)
