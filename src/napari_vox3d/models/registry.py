"""Finding models: the ones shipped, the user's own, and published checkpoints."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from napari_vox3d.errors import ModelError
from napari_vox3d.models.card import ModelCard, Task
from napari_vox3d.models.model import CARD_FILE, WEIGHTS_FILE, Model

SHIPPED = Path(__file__).parent / "weights"
_CHECKPOINTS = (".ckpt", ".pt", ".pth")


def user_folder() -> Path:
    """Folder of the user's models, one folder each.

    The environment variable ``NAPARI_VOX3D_MODELS`` names it; otherwise it lies with the user's
    application data. It need not exist.
    """
    chosen = os.environ.get("NAPARI_VOX3D_MODELS")
    if chosen:
        return Path(chosen)
    from platformdirs import user_data_path

    return user_data_path("napari-vox3d", appauthor=False) / "models"


def list_models(task: Task | None = None) -> list[ModelCard]:
    """Cards of the shipped and the user's models, shipped ones first.

    A damaged card of a user is left out with a warning. Of two models with one name the first
    counts.

    Parameters
    ----------
    task
        ``"elf"`` or ``"picking"``; None for all.
    """
    return [card for card, _ in _known(task).values()]


def load_model(name_or_path: str | Path | Model = "default", task: Task | None = None) -> Model:
    """Find a model and open it; its weights are read when its network is first used.

    The same unchanged model is the same object each time, so that a network stays loaded.

    Parameters
    ----------
    name_or_path
        Name from `list_models`; ``"default"`` for the default of `task`; path of a model's folder
        or card; or path of a published checkpoint (.ckpt, .pt, .pth). A `Model` is given back.
    task
        What the model must be for; None if any will do.

    Raises
    ------
    ModelError
        If there is no such model, it is for another task, or its files are damaged.
    """
    model = name_or_path if isinstance(name_or_path, Model) else _find(name_or_path, task)
    if task is not None and model.card.task != task:
        raise ModelError(f"Model {model.card.name!r} is for {model.card.task}, not for {task}.")
    return model


def _find(name_or_path: str | Path, task: Task | None) -> Model:
    known = _known(task)
    name = str(name_or_path)
    if name == "default":
        if task is None:
            raise ModelError("Say for which task: each has a default model of its own.")
        defaults = [path for card, path in known.values() if card.default]
        if not defaults:
            raise ModelError(f"There is no default model for {task}; name one of {_names(known)}.")
        return _open(defaults[0])
    if name in known:
        return _open(known[name][1])
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return _open(path / CARD_FILE)
    if path.is_file():
        return _open(path)
    elsewhere = _known(None).get(name)
    if elsewhere is not None:
        return _open(elsewhere[1])
    raise ModelError(f"There is no model or file {name!r}; known models are {_names(known)}.")


def _names(known: dict[str, tuple[ModelCard, Path]]) -> str:
    return ", ".join(known) or "none"


def _known(task: Task | None) -> dict[str, tuple[ModelCard, Path]]:
    known: dict[str, tuple[ModelCard, Path]] = {}
    for path in _card_files():
        try:
            card = ModelCard.read(path)
        except ModelError as error:
            warnings.warn(f"A model is left out. {error}", stacklevel=3)
            continue
        if task is None or card.task == task:
            known.setdefault(card.name, (card, path))
    return known


def _card_files() -> Iterator[Path]:
    yield from sorted(SHIPPED.glob("*.json"))
    yield from sorted(user_folder().glob(f"*/{CARD_FILE}"))


def _open(path: Path) -> Model:
    try:
        stamp = path.stat()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}).") from error
    return _open_once(path.resolve(), stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=8)
def _open_once(path: Path, _changed: int, _size: int) -> Model:
    if path.suffix.lower() in _CHECKPOINTS:
        from napari_vox3d.models.checkpoint import model_from_checkpoint

        return model_from_checkpoint(path)
    if path.suffix.lower() != ".json":
        raise ModelError(
            f"{path}: is not a model. Name a model's folder, its card (.json) or a checkpoint "
            f"({', '.join(_CHECKPOINTS)})."
        )
    card = ModelCard.read(path)
    if card.network is None:
        return Model(card)
    own = path.with_name(WEIGHTS_FILE)
    weights = own if path.name == CARD_FILE else path.with_suffix(".safetensors")
    if not weights.is_file():
        raise ModelError(f"{weights}: is missing; the card {path.name} needs it beside itself.")
    return Model(card, weights=weights)
