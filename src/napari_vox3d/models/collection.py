"""Adding models to the user's own, and removing them."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from napari_vox3d.errors import ModelError
from napari_vox3d.models.card import ModelCard
from napari_vox3d.models.model import CARD_FILE, WEIGHTS_FILE
from napari_vox3d.models.registry import CHECKPOINTS, installed_models, load_model, user_folder


def add_model(source: str | Path) -> ModelCard:
    """Copy a model into the user's models, where it is listed from now on.

    The network is built and given its weights first, so that only a model that works is added.

    Parameters
    ----------
    source
        Folder with one model in it; its card (.json) or its weights (.safetensors), each with
        the other beside it; or a published checkpoint (.ckpt, .pt, .pth).

    Returns
    -------
    ModelCard
        Its card. It is no default model, even if it was one where it came from.

    Raises
    ------
    ModelError
        If there is no model, it is damaged, or there is a model of its name already.
    FormatError
        If the files cannot be written.
    """
    model = load_model(_model_file(Path(source).expanduser().resolve()))
    name = model.card.name
    for known in installed_models():
        if known.card.name == name:
            where = "is shipped" if known.shipped else f"is in {known.path.parent}"
            raise ModelError(
                f"There is a model {name!r} already (it {where}); change the name in the card."
            )
    if model.card.network is not None:
        model.network()
        model.release()
    folder = user_folder() / name
    if folder.exists():
        raise ModelError(f"{folder}: is in the way of the new model; move it elsewhere.")
    try:
        return model.with_card(model.card.model_copy(update={"default": False})).save(folder).card
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def remove_model(name: str) -> None:
    """Delete one of the user's models from the disk.

    Parameters
    ----------
    name
        As `list_models` gives it.

    Raises
    ------
    ModelError
        If there is no such model, it is a shipped one, or it cannot be deleted.
    """
    known = {model.card.name: model for model in installed_models()}
    if name not in known:
        own = ", ".join(other for other, model in known.items() if not model.shipped)
        raise ModelError(f"There is no model {name!r}; yours are: {own or 'none'}.")
    model = known[name]
    if model.shipped:
        raise ModelError(f"Model {name!r} is a part of napari-vox3d and cannot be removed.")
    try:
        for path in model.files:  # the card first: without it there is no model
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(f"{path}: cannot be removed ({error.strerror}).") from error
    with suppress(OSError):  # a folder with anything else in it stays
        model.path.parent.rmdir()


def _model_file(source: Path) -> Path:
    """Card or checkpoint of the model that `source` names."""
    if source.is_dir():
        return _only_model(source)
    if not source.exists():
        raise ModelError(f"{source}: there is no such file or folder.")
    if source.suffix.lower() != ".safetensors":
        return source
    card = source.with_name(CARD_FILE)
    card = card if source.name == WEIGHTS_FILE else source.with_suffix(".json")
    if not card.is_file():
        raise ModelError(f"{card}: is missing; the weights {source.name} need it beside them.")
    return card


def _only_model(folder: Path) -> Path:
    if (folder / CARD_FILE).is_file():
        return folder / CARD_FILE
    cards = [weights.with_suffix(".json") for weights in folder.glob("*.safetensors")]
    found = sorted(card for card in cards if card.is_file()) or sorted(
        path for path in folder.iterdir() if path.suffix.lower() in (*CHECKPOINTS, ".json")
    )
    if not found:
        raise ModelError(
            f"{folder}: holds no model, which would be {CARD_FILE} with {WEIGHTS_FILE}, or two "
            "files such as mine.json with mine.safetensors."
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ModelError(f"{folder}: holds several models; name one of {names}.")
    return found[0]
