"""The *Train an ELF model* window: from true ELFs to a model for *Predict ELF*."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QWidget,
)

import napari_vox3d as vox
from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.controls import add_row, note, scrolled_form
from napari_vox3d.gui.layers import volume_from_layer
from napari_vox3d.gui.training_controls import StartChoice, TrainingControl
from napari_vox3d.gui.workers import show_problem
from napari_vox3d.provenance import Run
from napari_vox3d.training.inputs import read_true_elf

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

    from napari_vox3d.models import Model

NAMES = ("*ELFCAR*", "*elf*.cube*", "*ELF*.cube*")
FILTER = "ELF files (*ELFCAR* *.cube*);;All files (*)"
SOURCE = Qt.ItemDataRole.UserRole


class TrainELF(QWidget):
    """Dock widget that trains an ELF model on open layers and on files.

    Parameters
    ----------
    napari_viewer
        Whose ELF layers are offered.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer):
        super().__init__()
        self._viewer = napari_viewer
        self.start = StartChoice("elf", models=False, section="elf_training")
        self.elfs = QListWidget(
            toolTip="True ELFs with their atoms; those with a tick are learnt from. With five "
            "compositions or more, every fifth is kept for testing; with forty or more, half of "
            "these teach the model how far off it may be."
        )
        self.elfs.setFixedHeight(160)
        self.elfs.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.add_files = QPushButton("Add files…", toolTip="Add ELFCAR or cube files to the list.")
        self.add_folder = QPushButton(
            "Add a folder…",
            toolTip="Add all files in a folder, at any depth, that are named like an ELFCAR or "
            "like elf.cube.",
        )
        self.said = note()
        buttons = QHBoxLayout()
        buttons.addWidget(self.add_files)
        buttons.addWidget(self.add_folder)
        form = scrolled_form(self)
        add_row(form, "Network", self.start)
        form.addRow(note("Learn from these true ELFs:"))
        form.addRow(self.elfs)
        form.addRow(buttons)
        form.addRow(self.said)
        self.training = TrainingControl(
            form, function=_train_elf, section="elf_training", stem="my-elf",
            what="mean absolute error", prepare=self._prepare, describe=self._describe,
        )  # fmt: skip
        self.add_files.clicked.connect(self._ask_for_files)
        self.add_folder.clicked.connect(self._ask_for_folder)
        self.elfs.itemChanged.connect(self._count)
        self.reset_choices()

    @property
    def run(self) -> Any:
        """The Train button."""
        return self.training.run

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers that are open now; napari calls this when they change."""
        open_now = [layer for layer in self._viewer.layers if _is_true_elf(layer)]
        for item in self._items():
            source = item.data(SOURCE)
            if source in open_now:
                item.setText(source.name)
                open_now.remove(source)
            elif not isinstance(source, Path):
                self.elfs.takeItem(self.elfs.row(item))
        for layer in open_now:
            self._add(layer, layer.name)
        self._count()

    def add_paths(self, paths: list[Path]) -> None:
        """Add files to the list; those that are there already stay as they are."""
        known = [item.data(SOURCE) for item in self._items()]
        for path in paths:
            if path not in known:
                self._add(path, str(path))
        self._count()

    def add_all_in(self, folder: Path) -> None:
        """Add every file in a folder, at any depth, whose name is that of an ELF.

        Raises
        ------
        Vox3dError
            If there is none.
        """
        found = sorted({path for name in NAMES for path in folder.rglob(name) if path.is_file()})
        if not found:
            raise Vox3dError(
                f"{folder}: there is no file in it that is named like an ELFCAR or like elf.cube."
            )
        self.add_paths(found)

    def _items(self) -> list[QListWidgetItem]:
        return [self.elfs.item(n) for n in range(self.elfs.count())]

    def _add(self, source: Layer | Path, text: str) -> None:
        item = QListWidgetItem(text)
        item.setData(SOURCE, source)
        item.setToolTip(text)
        item.setCheckState(Qt.CheckState.Checked)
        self.elfs.addItem(item)

    def _chosen(self) -> list[Layer | Path]:
        return [
            item.data(SOURCE) for item in self._items()
            if item.checkState() == Qt.CheckState.Checked
        ]  # fmt: skip

    def _count(self) -> None:
        count = len(self._chosen())
        if count:
            self.said.setText(f"{count} ELF{'s' if count > 1 else ''} to learn from.")
        else:
            self.said.setText("Open an ELFCAR, or add files here, to learn from.")

    def _ask_for_files(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Add true ELFs", "", FILTER)
        self.add_paths([Path(path) for path in paths])

    def _ask_for_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Add all ELFs in a folder")
        if not folder:
            return
        try:
            self.add_all_in(Path(folder))
        except Vox3dError as error:
            show_problem(error)

    def _prepare(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of `_train_elf`."""
        chosen = self._chosen()
        if not chosen:
            raise Vox3dError("Open an ELFCAR, or add files, to learn from.")
        sources = [
            source if isinstance(source, Path) else volume_from_layer(source) for source in chosen
        ]
        return (sources,), self.start.arguments

    def _describe(self) -> Run:
        (sources,), settings = self._prepare()
        elfs = [
            str(given) if isinstance(given, Path) else given.source or given.name
            for given in sources
        ]
        return Run("train_elf", "", {"elfs": elfs, **settings})


def _is_true_elf(layer: Layer) -> bool:
    held = layer.metadata.get("vox3d")
    return (
        isinstance(layer, Image)
        and isinstance(held, vox.Volume)
        and held.quantity == "elf"
        and held.atoms is not None
        and Run.from_metadata(held.metadata) is None  # not predicted
    )


def _train_elf(sources: list[Any], *, progress: Any, **kwargs: Any) -> Model:
    elfs = []
    for source in sources:
        progress(0, 1)
        elfs.append(read_true_elf(source) if isinstance(source, Path) else source)
    return vox.train_elf(elfs, progress=progress, **kwargs)
