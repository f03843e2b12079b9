"""The *Predict ELF* window: from a charge density or a structure to its ELF."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import CheckBox, FileEdit
from napari.layers import Image, Layer
from qtpy.QtWidgets import QPushButton, QWidget

import napari_vox3d as vox
from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.controls import (
    DEFAULT,
    ComputeOptions,
    ModelChoice,
    add_row,
    drop_down,
    note,
    scrolled_form,
    spacing_box,
)
from napari_vox3d.gui.layers import atoms_from_layer, volume_from_layer, volume_layer, volume_layers
from napari_vox3d.gui.reproduce import CopyButtons
from napari_vox3d.gui.settings import recall, remember
from napari_vox3d.gui.workers import RunControl
from napari_vox3d.provenance import Run, changed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import napari

    from napari_vox3d.models import ModelCard
    from napari_vox3d.volume import Volume

FILE = "A file…"
WARNING = "background: #6b4e00; color: white; border-radius: 3px; padding: 4px;"


class PredictELF(QWidget):
    """Dock widget that predicts the ELF of a layer or of a file.

    Parameters
    ----------
    napari_viewer
        Where sources come from and results go.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer):
        super().__init__()
        self._viewer = napari_viewer
        remembered = recall("elf")
        self.source = drop_down(
            "A charge density or a structure that is open here, or a file on disk.",
            choices=self._sources,
        )
        self.file = FileEdit(
            filter="Structures and densities (POSCAR* CONTCAR* *.cif *.vasp* CHG* AECCAR* "
            "*.cube*);;All files (*)",
            tooltip="POSCAR, CONTCAR, CIF, or a density such as CHGCAR; it need not be open.",
        )
        self.model = ModelChoice("elf", remembered.get("model", ""))
        self.tables = FileEdit(
            mode="d", nullable=True, value=remembered.get("tables") or None,
            tooltip="Folder neutral_densities of ELFNet: its published models know no other atomic "
            "densities, and may not be given any.",
        )  # fmt: skip
        self.tables.choose_btn.text = "Choose…"
        self.spacing = spacing_box()
        self.uncertainty = CheckBox(
            text="Show uncertainty", value=remembered.get("uncertainty", False)
        )
        self.run = RunControl(
            "Predict ELF",
            self._start,
            "Predict in the background; press again to cancel.",
            networks=True,
        )
        self.warning = note()
        self.warning.setStyleSheet(WARNING)
        self.warning.hide()
        self.result = note()
        self.explore = QPushButton(
            "Explore this ELF…",
            toolTip="Find its bonds and lone pairs, see surfaces and planes, compare, save.",
        )
        self.explore.clicked.connect(self._explore)
        self.explore.hide()
        self._predicted: Layer | None = None
        self.copy = CopyButtons(self.current_run)
        self._form = form = scrolled_form(self)
        add_row(form, "Source", self.source)
        add_row(form, "File", self.file)
        add_row(form, "Model", self.model)
        add_row(form, "Tables", self.tables)
        add_row(form, "Grid", self.spacing)
        form.addRow("", self.uncertainty.native)
        self.computing = ComputeOptions(self, form)
        form.addRow(self.run)
        form.addRow(self.warning)
        form.addRow(self.result)
        form.addRow(self.explore)
        form.addRow(self.copy)
        self.source.changed.connect(self._offer_file)
        self.model.menu.changed.connect(self._offer_what_the_model_has)
        self.reset_choices()

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers that are open now; napari calls this when they change."""
        had_layers = len(self.source.choices) > 1
        self.source.reset_choices()
        if not had_layers:
            self.source.value = self._sources()[0]
        self._offer_file()

    def current_run(self) -> Run:
        """What the window is set to do now.

        Raises
        ------
        Vox3dError
            If no file is chosen, or no model is installed.
        """
        source, card = self._read_source(), self._card()
        spacing = self.spacing.value or None
        if isinstance(source, Path):
            name = str(source)
        elif isinstance(source, vox.Volume):
            name = source.source
        else:
            from napari_vox3d.inference.elf import DEFAULT_SPACING

            # The file may hold a density too, whose grid would else be taken.
            name, spacing = source.info["source"], spacing or DEFAULT_SPACING
        computing = self.computing.arguments()
        arguments = changed(
            spacing=(spacing, None),
            device=(computing["device"], "auto"),
            precision=(computing["precision"], "auto"),
            **{key: (value, None) for key, value in self._extras().items()},
        )
        source_name = name or self.source.value.name
        model = self.model.menu.value
        sha256 = "" if model == DEFAULT else card.sha256 or ""
        return Run("predict_elf", source_name, arguments, model=model, sha256=sha256)

    def _sources(self, _: object = None) -> list[Layer | str]:
        return [layer for layer in self._viewer.layers if _has_crystal(layer)] + [FILE]

    def _offer_file(self) -> None:
        self._form.setRowVisible(self.file.native, self.source.value == FILE)
        if len(self.source.choices) == 1 and not self.run.running:
            self.result.setText(
                "Choose a file; or open one: File › Open File(s)…, or File › Open Sample › vox3d."
            )
        self._tell_default()

    def _tell_default(self) -> None:
        """Say which of several default models fits the source."""
        if len(self.model.defaults) > 1:
            from napari_vox3d.inference.elf import default_model
            from napari_vox3d.inference.elf_inputs import foreign_electrons

            if self.source.value == FILE:
                card = min(self.model.defaults, key=lambda each: each.needs_density)
                why = (
                    "Default unless the file holds the electron density of the valence shells that "
                    "models know; that is then predicted from."
                )
            else:
                given = self._read_source()
                card, problem = default_model(given).card, foreign_electrons(given)
                why = (
                    f"Default here, because {problem}."
                    if problem
                    else "Default here: it predicts from the electron density of this layer."
                )
            self.model.show_default(card, why)
        self._offer_what_the_model_has()

    def _offer_what_the_model_has(self, *_: Any) -> None:
        """Offer an uncertainty if the model knows it, and to choose tables if it needs them."""
        card, undecided = self.model.card, self.source.value == FILE
        cards = [card] if card else []
        if undecided and self.model.menu.value == DEFAULT:
            cards = self.model.defaults
        self.uncertainty.enabled = bool(cards) and all(each.uncertainty for each in cards)
        self.uncertainty.tooltip = (
            "Also make a layer of how far off the ELF may be at each point."
            if self.uncertainty.enabled
            else "This model cannot say how far off it may be."
        )
        self._form.setRowVisible(self.tables.native, _needs_tables(card))

    def _extras(self) -> dict[str, Any]:
        """Arguments that only some models take."""
        extras: dict[str, Any] = {}
        if self.uncertainty.enabled and self.uncertainty.value:
            extras["uncertainty"] = True
        if _needs_tables(self.model.card) and self.tables.value is not None:
            extras["tables"] = str(self.tables.value)
        return extras

    def _start(self) -> None:
        source = self._read_source()
        spacing = self.spacing.value or None
        card = self._card()
        tables = "" if self.tables.value is None else str(self.tables.value)
        remember("elf", model=self.model.chosen, spacing=self.spacing.value,
                 uncertainty=self.uncertainty.value, tables=tables)  # fmt: skip
        self.result.clear()
        self.warning.hide()
        self.run.run(
            _predict_elf, source, self.model.menu.value,
            spacing=spacing, **self._extras(), **self.computing.arguments(),
            then=partial(self._show, self.source.value, card.title, time.monotonic()),
        )  # fmt: skip

    def _card(self) -> ModelCard:
        card = self.model.card
        if card is None:
            raise Vox3dError("No model for ELF prediction is installed.")
        return card

    def _read_source(self) -> Any:
        layer = self.source.value
        if layer == FILE:
            path = Path(self.file.value)
            if not path.is_file():
                raise Vox3dError("Choose a file to predict from: a POSCAR, CIF or CHGCAR.")
            return path
        if isinstance(layer.metadata["vox3d"], vox.Volume):
            return volume_from_layer(layer)
        atoms = atoms_from_layer(layer).copy()
        atoms.info["source"] = layer.metadata.get("provenance", {}).get("source", "")
        return atoms

    def _show(
        self,
        source: Layer | str,
        title: str,
        started: float,
        made: Volume | tuple[Volume, Volume],
    ) -> Iterator[None]:
        elf, *bands = made if isinstance(made, tuple) else (made,)
        self._tell(title, started, elf, bands)
        # Every layer in a turn of its own: napari takes a tenth of a second for each.
        image, *structure = volume_layers([elf]) if source == FILE else [volume_layer(elf)]
        layers = self._viewer.layers
        place = max((n for n, layer in enumerate(layers, 1) if isinstance(layer, Image)), default=0)
        for band in bands:  # hidden: it lies where the ELF is
            yield
            layers.insert(place, Layer.create(*volume_layer(band, visible=False)))
        yield
        before, self._predicted = self._predicted, Layer.create(*image)
        layers.insert(place, self._predicted)
        for layer in (source, before):
            if isinstance(layer, Image):
                layer.visible = False  # two volumes in one place cannot be told apart in 3D
        for part in structure:
            yield
            layers.append(Layer.create(*part))
        self.explore.show()

    def _tell(self, title: str, started: float, elf: Volume, bands: Sequence[Volume]) -> None:
        from napari_vox3d.inference.elf import stated_error

        grid = "×".join(map(str, elf.shape))
        low, high = np.min(elf.values), np.max(elf.values)
        what = "" if elf.atoms is None else f" of {elf.atoms.get_chemical_formula()}"
        account = elf.metadata["provenance"]
        titles = {card.name: card.title for card in vox.list_models("elf")}
        title = titles.get(elf.metadata.get("run", {}).get("model"), title)
        words = [
            f"ELF{what} on {grid} points, from {low:.3f} to {high:.3f}, by “{title}” in "
            f"{time.monotonic() - started:.1f} s. Input: {account['input']}."
        ]
        if stated := stated_error(elf):
            words.append(f"{stated[0].upper()}{stated[1:]} (means over the cell).")
        words += [f"Show the layer “{band.name}” to see where." for band in bands]
        self.result.setText(" ".join(words))
        notes = account.get("notes", [])
        self.warning.setText("⚠ " + " ".join(notes))
        self.warning.setVisible(bool(notes))

    def _explore(self) -> None:
        from napari_vox3d.gui.elf_tools_widget import open_explorer

        open_explorer(self._viewer, self._predicted)


def _needs_tables(card: ModelCard | None) -> bool:
    return card is not None and card.input.density == "elfnet"


def _has_crystal(layer: Layer) -> bool:
    held = layer.metadata.get("vox3d")
    if isinstance(held, vox.Volume):
        return held.periodic
    return hasattr(held, "get_chemical_symbols")  # ase.Atoms, without importing ase


def _predict_elf(*args: Any, **kwargs: Any) -> Volume | tuple[Volume, Volume]:
    # Looked up in the thread, because this imports torch.
    return vox.predict_elf(*args, **kwargs)
