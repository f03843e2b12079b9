"""`Draft`: a model that is not there yet, and the folder it is made in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_vox3d.errors import ModelError
from napari_vox3d.models import list_models, user_folder
from napari_vox3d.models.card import NAME
from napari_vox3d.models.model import CARD_FILE

if TYPE_CHECKING:
    from napari_vox3d.models import Model

_CHECKPOINT = "unfinished.safetensors"


@dataclass(frozen=True)
class Draft:
    """Name and folder of a model to be trained.

    Parameters
    ----------
    name
        Of the model.
    folder
        Where it will live.
    """

    name: str
    folder: Path

    @classmethod
    def named(cls, name: str, folder: str | Path | None = None) -> Draft:
        """Make a draft where no model is yet.

        Parameters
        ----------
        name
            Letters, digits, dots, dashes and underscores.
        folder
            Default: among the user's models, where the new one is listed.

        Raises
        ------
        ModelError
            If the name is not fit for a file, or there is a model already.
        """
        if not re.fullmatch(NAME, name):
            raise ModelError(
                f"{name!r} cannot be the name of a model: use letters, digits, dots, dashes and "
                "underscores."
            )
        if folder is None and name in {card.name for card in list_models()}:
            raise ModelError(f"There is a model {name!r} already; choose another name.")
        draft = cls(name, user_folder() / name if folder is None else Path(folder))
        if (draft.folder / CARD_FILE).exists():
            raise ModelError(f"{draft.folder}: holds a model already; choose another folder.")
        return draft

    @property
    def checkpoint(self) -> Path:
        """File that an interrupted training goes on from."""
        return self.folder / _CHECKPOINT

    def forget(self) -> None:
        """Remove what was learnt so far."""
        self.checkpoint.unlink(missing_ok=True)
        with suppress(OSError):  # a folder with anything in it stays, and one that is not there
            self.folder.rmdir()

    def train(self, function: Callable[..., Model], *args: Any, **kwargs: Any) -> Model:
        """Train, save the model, and remove the checkpoint.

        Parameters
        ----------
        function
            `train_picker` or `train_elf`.
        *args, **kwargs
            Its arguments beside ``name`` and ``checkpoint``.

        Returns
        -------
        Model
            Living in the folder. Where training fails or is cancelled, only the checkpoint stays.

        Raises
        ------
        ModelError
            If the folder cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(
                f"{self.folder}: cannot be made a folder ({error.strerror})."
            ) from error
        try:
            model = function(*args, name=self.name, checkpoint=self.checkpoint, **kwargs)
            saved = model.save(self.folder)
            self.checkpoint.unlink(missing_ok=True)
            return saved
        finally:
            with suppress(OSError):  # a folder with anything in it stays
                self.folder.rmdir()


def free_name(stem: str, taken: Iterable[str] = ()) -> str:
    """Name for a new model: `stem`, with a number if it is taken, or a model has it."""
    taken = {*taken, *(card.name for card in list_models())}
    names = (stem if n == 1 else f"{stem}-{n}" for n in count(1))
    return next(name for name in names if name not in taken)
