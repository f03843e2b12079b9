"""The *Batch* window: many files, one after the other or at the same time, here or elsewhere."""

from __future__ import annotations

from collections import Counter, deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox, FileEdit, FloatSpinBox, LineEdit, SpinBox
from napari.layers import Layer
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

import napari_vox3d as vox
from napari_vox3d.batch import ELF_FORMATS, Outcome
from napari_vox3d.errors import Vox3dError
from napari_vox3d.formats import PICK_FORMATS, kind_of
from napari_vox3d.gui.cards import TASKS
from napari_vox3d.gui.controls import (
    ComputeOptions,
    ModelChoice,
    add_row,
    choose,
    contrast_menu,
    distance_box,
    drop_down,
    flips_box,
    new_grid,
    note,
    scrolled_form,
    spacing_box,
)
from napari_vox3d.gui.file_table import FileTable
from napari_vox3d.gui.layer_files import files_of
from napari_vox3d.gui.layers import volume_layers
from napari_vox3d.gui.pick_layers import picks_layer, show_whole_spheres
from napari_vox3d.gui.reproduce import CopyButtons
from napari_vox3d.gui.settings import recall, remember
from napari_vox3d.gui.workers import RunControl, show_problem
from napari_vox3d.provenance import Run, changed

if TYPE_CHECKING:
    import napari

    from napari_vox3d.gui.layers import LayerData
    from napari_vox3d.models import ModelCard

KINDS = {"picking": ("volume",), "elf": ("structure", "volume")}
FUNCTIONS = {"picking": ("pick_files", "tomograms"), "elf": ("predict_elf_files", "sources")}
HERE, DASK = "this machine", "a dask scheduler"
CLUSTERS = {"SLURM": "slurm", "PBS": "pbs", "LSF": "lsf"}
REFRESH = 200  # ms between two looks at a running batch


class RunBatch(QWidget):
    """Dock widget that picks particles in many tomograms, or predicts many ELFs.

    Parameters
    ----------
    napari_viewer
        Whose layers may be added to the list.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer):
        super().__init__()
        self._viewer = napari_viewer
        self._news: deque[Outcome] = deque()  # filled in the thread of the batch
        self._paths: dict[str, list[Path]] = {"picking": [], "elf": []}
        self._thresholds: dict[str, FloatSpinBox] = {}
        remembered = recall("batch")
        self.task = drop_down(
            "What to do with each file.", choices=[(TASKS[task], task) for task in FUNCTIONS]
        )
        choose(self.task, "picking")
        self.files = FileTable(partial(files_of, napari_viewer.layers), self._say)
        self.models = {
            task: ModelChoice(task, recall(task).get("model", "")) for task in ("picking", "elf")
        }
        self.thresholds = QWidget(toolTip="Score that a pick of each class needs.")
        self.min_distance = distance_box()
        self.contrast = contrast_menu()
        self.flips = flips_box()
        self.spacing = spacing_box()
        self.folder = FileEdit(
            mode="d", tooltip="Where the results go, one file for each source, named after it."
        )
        self.folder.choose_btn.text = "Choose…"
        self._suggested = ""
        self.format = drop_down("Format of the results.", choices=self._formats)
        self.one_file = CheckBox(
            text="Also one file for all",
            tooltip="Also write the picks of all tomograms into one file, with their names in it.",
        )
        self.overwrite = CheckBox(
            text="Do finished files again",
            tooltip="Otherwise files are skipped whose result is there, not older, and of the same "
            "settings, so that a batch that was stopped goes on where it was.",
        )
        self.jobs = SpinBox(
            value=remembered.get("jobs", 1), min=1, max=1000,
            tooltip="Files at a time. Each has a process of its own, and a graphics card of its "
            "own as far as there are enough; on a cluster, the number of workers.",
        )  # fmt: skip
        self.where = drop_down("Where the work is done.", choices=[HERE, DASK, *CLUSTERS])
        choose(self.where, remembered.get("where", HERE))
        self.address = LineEdit(
            value=remembered.get("address", ""),
            tooltip="Address of the scheduler, such as tcp://host:8786. Files must have the same "
            "paths there.",
        )
        self.config = FileEdit(
            filter="YAML (*.yaml *.yml)", nullable=True,
            tooltip="Settings of dask-jobqueue for the jobs; empty for those of dask itself.",
        )  # fmt: skip
        self.run = RunControl(
            "Run the batch",
            self._start,
            "Work in the background; press again to cancel.",
            networks=True,
        )
        self.result = note()
        self._form = form = scrolled_form(self)
        add_row(form, "Task", self.task)
        form.addRow(self.files)
        for choice in self.models.values():
            add_row(form, "Model", choice)
        add_row(form, "Thresholds", self.thresholds)
        add_row(form, "Distance", self.min_distance)
        add_row(form, "Contrast", self.contrast)
        form.addRow("", self.flips.native)
        add_row(form, "Grid", self.spacing)
        add_row(form, "Results in", self.folder)
        add_row(form, "Format", self.format)
        form.addRow("", self.one_file.native)
        form.addRow("", self.overwrite.native)
        add_row(form, "At a time", self.jobs)
        add_row(form, "Run on", self.where)
        add_row(form, "Address", self.address)
        add_row(form, "Settings", self.config)
        self.computing = ComputeOptions(self, form)
        below = QVBoxLayout()  # does not scroll: there are more settings than a dock is high
        below.setContentsMargins(9, 0, 9, 9)
        for part in (self.run, self.result, CopyButtons(self.current_run)):
            below.addWidget(part)
        self.layout().addLayout(below)
        self._look = QTimer(self, interval=REFRESH)
        self._look.timeout.connect(self._show_news)
        self.run.ended.connect(self._end)
        self.task.changed.connect(self._show_task)
        self.files.changed.connect(self._suggest_folder)
        self.files.opened.connect(self._open_result)
        self.where.changed.connect(self._show_place)
        self.format.changed.connect(self._show_format)
        self.models["picking"].menu.changed.connect(self._list_classes)
        self._list_classes()
        self._show_task()
        self._show_place()
        choose(self.format, remembered.get("format", "relion5"))

    @property
    def card(self) -> ModelCard:
        """Card of the chosen model.

        Raises
        ------
        Vox3dError
            If no model for the task is installed.
        """
        card = self.models[self.task.value].card
        if card is None:
            raise Vox3dError(f"No model for the window {TASKS[self.task.value]} is installed.")
        return card

    def current_run(self) -> Run:
        """What the window is set to do now.

        Raises
        ------
        Vox3dError
            If there are no files, or no folder for the results.
        """
        card, (function, sources) = self.card, FUNCTIONS[self.task.value]
        paths = [str(path) for path in self.files.paths]
        arguments = {sources: paths, "folder": str(self._folder()), **self._options()}
        model = _name_for_all(self.models[self.task.value], card)
        sha256 = card.sha256 if model == card.name else None
        return Run(function, "", arguments, model=model, sha256=sha256 or "")

    def _options(self) -> dict[str, Any]:
        """Keyword arguments of the batch functions that differ from the defaults."""
        computing = self.computing.arguments()
        where, config = self.where.value, self.config.value
        scheduler = {HERE: None, DASK: self.address.value.strip(), **CLUSTERS}[where]
        if scheduler == "":
            raise Vox3dError("Give the address of the dask scheduler, such as tcp://host:8786.")
        jobqueue = str(config) if where in CLUSTERS and config else None
        how = changed(
            jobs=(self.jobs.value, 1),
            scheduler=(scheduler, None),
            cluster_config=(jobqueue, None),
            overwrite=(self.overwrite.value, False),
            device=(computing["device"], "auto"),
            precision=(computing["precision"], "auto"),
        )
        if self.task.value == "elf":
            spacing = self.spacing.value or None
            return changed(format=(self.format.value, "ELFCAR"), spacing=(spacing, None)) | how
        card = self.card
        chosen = {name: box.value for name, box in self._thresholds.items()}
        suggested = {kind.name: kind.threshold for kind in card.classes}
        what = changed(
            format=(self.format.value, "relion5"),
            one_file=(self.one_file.value and self._holds_several(), False),
            min_distance=(self.min_distance.value or None, None),
            flips=(self.flips.value, False),
        )
        if chosen != suggested:
            what["threshold"] = chosen
        what["contrast"] = self.contrast.value
        return what | how

    def _folder(self) -> Path:
        if not self.files.paths:
            raise Vox3dError("Add files first: drop them on the list, or press a button below it.")
        if not self.folder.line_edit.value.strip():
            raise Vox3dError("Choose a folder for the results.")
        return Path(self.folder.value)

    def _start(self) -> None:
        card, folder, options = self.card, self._folder(), self._options()
        remember(self.task.value, model=self.models[self.task.value].chosen)
        remember("batch", format=self.format.value, jobs=self.jobs.value, where=self.where.value,
                 address=self.address.value)  # fmt: skip
        self.result.clear()
        self._news.clear()
        for path in self.files.paths:
            self.files.show_state(path, "waiting")
        function, _ = FUNCTIONS[self.task.value]
        paths = self.files.paths
        model = _name_for_all(self.models[self.task.value], card)
        self._lock(True)
        self._look.start()
        self.run.run(
            _run_batch, function, paths, folder, model, on_outcome=self._news.append,
            then=partial(self._finish, folder), **options,
        )  # fmt: skip

    def _show_news(self) -> None:
        """Show what ended since the last look, and what must be at work now."""
        while self._news:
            self.files.show_outcome(self._news.popleft())
        if not self.run.running:
            return
        # Files are taken in their order; a scheduler's workers may be more or fewer.
        waiting = [path for path in self.files.paths if self.files.state(path) in OPEN_STATES]
        for path in waiting[: self.jobs.value]:
            self.files.show_state(path, "running", "running…")

    def _finish(self, folder: Path, outcomes: list[Outcome]) -> None:
        counts = Counter(outcome.state for outcome in outcomes)
        said = ", ".join(f"{counts[state]} {state}" for state in OUTCOMES if counts[state])
        picks = [outcome.count for outcome in outcomes if outcome.count is not None]
        found = f", {sum(picks)} picks" if picks else ""
        failed = [outcome.problem for outcome in outcomes if outcome.state == "failed"]
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        problem = f" {failed[0]}{more}" if failed else ""
        self.result.setText(f"{said}{found}. Results are in {folder}.{problem}")

    def _lock(self, locked: bool) -> None:
        self.files.lock(locked)
        self.task.enabled = not locked

    def _end(self) -> None:
        self._lock(False)
        self._look.stop()
        self._show_news()
        stopped = [path for path in self.files.paths if self.files.state(path) in OPEN_STATES]
        for path in stopped:
            self.files.show_state(path, "waiting")
        if stopped:
            self.result.setText(
                f"Stopped; {len(stopped)} files are left. Run the batch again to go on."
            )

    def _say(self, text: str) -> None:
        self.result.setText(text)

    def _suggest_folder(self) -> None:
        """Suggest a folder beside the first file, unless the user chose one."""
        self._paths[self.task.value] = self.files.paths
        if self.files.paths and self.folder.line_edit.value == self._suggested:
            name = "picks" if self.task.value == "picking" else "elf"
            self._suggested = str(self.files.paths[0].parent / name)
            self.folder.value = self._suggested

    def _open_result(self, outcome: Outcome) -> None:
        """Add the result of a file to the viewer, with its tomogram if that is not open."""
        try:
            layers = self._result_layers(outcome)
        except Vox3dError as error:
            show_problem(error)
            return
        for layer in layers:
            self._viewer.add_layer(Layer.create(*layer))

    def _result_layers(self, outcome: Outcome) -> list[LayerData]:
        target = outcome.targets[0]
        if kind_of(target) != "picks":
            return volume_layers(vox.read_volumes(target))
        tomogram = vox.read_volume(outcome.source)
        picks = vox.read_picks(target, tomogram)
        show_whole_spheres(self._viewer, picks)
        held = [layer.metadata.get("vox3d") for layer in self._viewer.layers]
        is_open = any(isinstance(v, vox.Volume) and v.source == tomogram.source for v in held)
        return [*([] if is_open else volume_layers([tomogram])), picks_layer(picks, tomogram)]

    def _formats(self, _: object = None) -> list[tuple[str, str]]:
        if self.task.value == "elf":
            return [(f"{name} (*{suffix})", name) for name, suffix in ELF_FORMATS.items()]
        card = self.models["picking"].card
        single = card is not None and len(card.classes) == 1
        return [
            (f"{known.title} (*{known.suffix})", name)
            for name, known in PICK_FORMATS.items()
            if name != "copick-project" and (single or known.classes != "one")
        ]

    def _holds_several(self) -> bool:
        known = PICK_FORMATS.get(self.format.value or "")
        return self.task.value == "picking" and known is not None and known.several_tomograms

    def _show_task(self) -> None:
        task = self.task.value
        self.files.kinds = KINDS[task]
        self.files.replace(self._paths[task])
        self.result.clear()
        for other, choice in self.models.items():
            self._form.setRowVisible(choice, other == task)
        for control in (self.thresholds, self.min_distance, self.contrast, self.flips):
            self._form.setRowVisible(getattr(control, "native", control), task == "picking")
        self._form.setRowVisible(self.spacing.native, task == "elf")
        self.format.reset_choices()
        self._show_format()

    def _show_format(self) -> None:
        self._form.setRowVisible(self.one_file.native, self._holds_several())

    def _show_place(self) -> None:
        self._form.setRowVisible(self.address.native, self.where.value == DASK)
        self._form.setRowVisible(self.config.native, self.where.value in CLUSTERS)

    def _list_classes(self) -> None:
        card = self.models["picking"].card
        grid = new_grid(self.thresholds, wide=0)
        self._thresholds = {}
        for n, kind in enumerate(card.classes if card else ()):
            self._thresholds[kind.name] = box = FloatSpinBox(
                min=0, max=1, step=0.01, value=kind.threshold,
                tooltip=f"Score that a pick of {kind.name} needs; the model suggests "
                f"{kind.threshold:g}.",
            )  # fmt: skip
            grid.addWidget(QLabel(kind.name), n, 0)
            grid.addWidget(box.native, n, 1)
        self.format.reset_choices()


OUTCOMES = ("done", "skipped", "failed")
OPEN_STATES = ("waiting", "running")


def _name_for_all(choice: ModelChoice, card: ModelCard) -> str:
    """Name that each file finds its model by: the default ELF model may depend on the source."""
    return choice.chosen or "default" if card.task == "elf" else card.name


def _run_batch(function: str, *args: Any, **kwargs: Any) -> list[Outcome]:
    # Looked up in the thread, because this imports torch.
    return getattr(vox, function)(*args, **kwargs)
