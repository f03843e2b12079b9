"""The *Models* window: what there is, how good it is, and adding and removing one's own."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.compat import isalive
from qtpy.QtCore import Qt, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QGridLayout,
    QHeaderView,
    QLabel,
    QMenu,
    QMessageBox,
    QPushButton,
    QSplitter,
    QTextBrowser,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

import napari_vox3d as vox
from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.cards import TASKS, page
from napari_vox3d.gui.controls import MODEL_NEWS, ModelChoice, note
from napari_vox3d.gui.docks import open_window
from napari_vox3d.gui.drops import FileDrops
from napari_vox3d.gui.settings import remember, watch
from napari_vox3d.gui.workers import BackgroundJob, show_problem
from napari_vox3d.models import Installed, installed_models, user_folder

if TYPE_CHECKING:
    import napari

    from napari_vox3d.models import ModelCard

COLUMNS = ("Model", "Whose", "Size")
WIDTH = 330  # pixels: titles can be read
FILES = "Models (*.json *.safetensors *.ckpt *.pt *.pth);;All files (*)"


class ModelManager(QWidget):
    """Dock widget that lists the models and keeps the user's own.

    Parameters
    ----------
    napari_viewer
        Whose windows a model is chosen in.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer):
        super().__init__()
        self._viewer = napari_viewer
        self._job: BackgroundJob | None = None
        self._items: dict[str, QTreeWidgetItem] = {}
        self.setMinimumWidth(WIDTH)
        self.models = QTreeWidget(
            toolTip="Drop the folder of a model here, or its card and weights, to add it."
        )
        self.models.setHeaderLabels(COLUMNS)
        self.models.setIndentation(10)
        self.models.setRootIsDecorated(False)
        self.models.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.models.header().setStretchLastSection(False)
        for column in range(len(COLUMNS)):
            mode = QHeaderView.ResizeMode
            self.models.header().setSectionResizeMode(
                column, mode.ResizeToContents if column else mode.Stretch
            )
        self.card = QTextBrowser()
        self.use = QPushButton("Use", toolTip="Choose this model in the window for its task.")
        self.add = QPushButton("Add…", toolTip="Copy a model from elsewhere into your own.")
        menu = QMenu(self)
        menu.addAction("A folder…", self._ask_for_folder)
        menu.addAction("A card, weights or checkpoint…", self._ask_for_file)
        self.add.setMenu(menu)
        self.remove = QPushButton("Remove…", toolTip="Delete this model of yours from the disk.")
        self.show_folder = QPushButton("Show folder", toolTip="Open the folder of its files.")
        self.result = note()
        self.place = QLabel()
        self.place.setWordWrap(True)
        self.place.linkActivated.connect(self._ask_for_place)
        parts = QSplitter(Qt.Orientation.Vertical)
        parts.addWidget(self.models)
        parts.addWidget(self.card)
        parts.setSizes([260, 500])
        buttons = QGridLayout()
        for n, button in enumerate((self.use, self.add, self.remove, self.show_folder)):
            buttons.addWidget(button, n // 2, n % 2)
        layout = QVBoxLayout(self)
        layout.addWidget(parts, stretch=1)
        layout.addLayout(buttons)
        layout.addWidget(self.result)
        layout.addWidget(self.place)
        FileDrops(self.models, self._add_all)
        self.models.itemSelectionChanged.connect(self._show_card)
        self.use.clicked.connect(self._use)
        self.remove.clicked.connect(self._ask_and_remove)
        self.show_folder.clicked.connect(self._open_folder)
        MODEL_NEWS.changed.connect(self._list)
        watch("models", "folder", self._list)
        self._list()

    @property
    def chosen(self) -> Installed | None:
        """The model whose card is shown."""
        items = self.models.selectedItems()
        return items[0].data(0, Qt.ItemDataRole.UserRole) if items else None

    def choose(self, name: str) -> None:
        """Show the card of a model; the first one if there is none of that name."""
        if self._items:
            self.models.setCurrentItem(self._items.get(name) or next(iter(self._items.values())))

    def add_model(self, path: Path) -> None:
        """Add a model in the background: its network is tried first."""
        if self._job is not None:
            raise Vox3dError("A model is being added; wait for it.")
        self._job = BackgroundJob("Add a model", _add_model, path)
        self._job.networks = True
        self.add.setEnabled(False)
        self.result.setText(f"Trying {path.name}…")
        self._job.start(self._end_adding)

    def _list(self) -> None:
        if not isalive(self):
            return
        before = self.chosen
        with warnings.catch_warnings(record=True) as damaged:
            warnings.simplefilter("always")
            models = installed_models()
        self.models.clear()
        self._items = {}
        for task, window in TASKS.items():
            heading = QTreeWidgetItem(self.models, [window])
            heading.setFlags(Qt.ItemFlag.ItemIsEnabled)
            heading.setFirstColumnSpanned(True)
            for model in sorted(models, key=lambda model: not model.card.default):
                if model.card.task == task:
                    self._items[model.card.name] = _row(heading, model)
        self.models.expandAll()
        self.result.setText(" ".join(str(warning.message) for warning in damaged))
        self._show_place()
        self.choose("" if before is None else before.card.name)

    def _show_place(self) -> None:
        place = f"Yours are kept in {user_folder()}"
        if os.environ.get("NAPARI_VOX3D_MODELS"):
            self.place.setText(f"{place} (NAPARI_VOX3D_MODELS).")
        else:
            self.place.setText(f'{place}. <a href="#" style="color:#8ab4f8">Change…</a>')

    def _show_card(self) -> None:
        model = self.chosen
        for button in (self.use, self.show_folder):
            button.setEnabled(model is not None)
        self.remove.setEnabled(model is not None and not model.shipped)
        if model is not None:
            self.use.setText(f"Use in {TASKS[model.card.task]}")
            self.card.setHtml(page(model))

    def _use(self) -> None:
        card = self.chosen.card
        remember(card.task, model="" if card.default else card.name)
        if getattr(self._viewer, "window", None) is not None:
            open_window(self._viewer, TASKS[card.task])
        ModelChoice.offer(card)
        self.result.setText(f"“{card.title}” is chosen in {TASKS[card.task]}.")

    def _ask_for_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Folder of a model")
        if path:
            self._add_all([Path(path)])

    def _ask_for_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Card, weights or checkpoint", "", FILES)
        if path:
            self._add_all([Path(path)])

    def _add_all(self, paths: list[Path]) -> None:
        """Add a model that was dropped or chosen; its card and weights are one."""
        folders = {path.parent for path in paths}
        try:
            if len(paths) > 1 and (len(folders) > 1 or any(path.is_dir() for path in paths)):
                raise Vox3dError("Add one model at a time.")
            self.add_model(paths[0])
        except Vox3dError as error:
            show_problem(error)

    def _end_adding(self, job: BackgroundJob) -> None:
        self._job = None
        if not isalive(self):
            return
        self.add.setEnabled(True)
        self.result.clear()
        if job.error is not None:
            show_problem(job.error)
        elif job.result is not None:
            MODEL_NEWS.changed.emit()
            self.choose(job.result.name)
            self.result.setText(f"“{job.result.title}” was added.")

    def _ask_and_remove(self) -> None:
        model = self.chosen
        answer = QMessageBox.question(
            self,
            "Remove a model",
            f"Delete “{model.card.title}” ({model.card.name}) and its files in "
            f"{model.path.parent}? This cannot be undone.",
        )
        if answer != QMessageBox.StandardButton.Yes:
            return
        try:
            vox.models.remove_model(model.card.name)
        except Vox3dError as error:
            show_problem(error)
        MODEL_NEWS.changed.emit()
        self.result.setText(f"“{model.card.title}” was removed.")

    def _open_folder(self) -> None:
        folder = self.chosen.path.parent
        if not QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder))):
            self.result.setText(f"No program shows folders here; it is {folder}.")

    def _ask_for_place(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Folder for models of your own")
        if path:
            remember("models", folder=path)
            MODEL_NEWS.changed.emit()


def _row(heading: QTreeWidgetItem, model: Installed) -> QTreeWidgetItem:
    card = model.card
    title = card.title + (" (default)" if card.default else "")
    whose = "shipped" if model.shipped else "yours"
    row = QTreeWidgetItem(heading, [f"{title}\n{card.name}", whose, file_size(model.size)])
    row.setData(0, Qt.ItemDataRole.UserRole, model)
    row.setToolTip(0, card.description or card.training)
    return row


def file_size(size: int) -> str:
    """Size in words, such as ``"3.8 MB"``."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"


def _add_model(path: Path, progress: object) -> ModelCard:
    # In a thread, because it imports torch.
    return vox.models.add_model(path)
