"""`Model`: a card, where its weights are, and the networks made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from napari_vox3d import networks
from napari_vox3d.errors import ModelError
from napari_vox3d.formats import write_aside
from napari_vox3d.models.card import ModelCard, NetworkSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CARD_FILE, WEIGHTS_FILE = "card.json", "weights.safetensors"
_NEW_WEIGHTS = "weights.new.safetensors"  # as long as the card may be that of the old ones


class Model:
    """A card with weights, kept in memory or in a file.

    Parameters
    ----------
    card
        What the model is.
    state
        Parameters by name, as training and checkpoints give them. Entries may be in the compact
        form that `restore` undoes. They are copied.
    weights
        The safetensors file instead.

    Raises
    ------
    ModelError
        If a network has no weights or both, or a weight-free card has some.
    """

    def __init__(
        self,
        card: ModelCard,
        state: Mapping[str, Tensor] | None = None,
        *,
        weights: Path | None = None,
    ) -> None:
        given = (state is not None) + (weights is not None)
        if given != (card.network is not None):
            raise ModelError(
                f"Model {card.name!r} needs {'one set of' if card.network else 'no'} weights."
            )
        self.card, self.weights = card, weights
        self._state = None if state is None else _copies(state)
        self._networks: dict[str, nn.Module] = {}
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"Model({self.card.name!r}, task={self.card.task!r})"

    def network(self, device: str | torch.device = "cpu") -> nn.Module:
        """Give the network with its weights, in evaluation mode; one is kept per device.

        Everyone who asks shares it, so its parameters are frozen; training starts from a copy
        (`copy.deepcopy`) with ``requires_grad_(True)``.

        Raises
        ------
        ModelError
            If the model has no network, or its weights are missing, damaged, or do not fit.
        """
        if self.card.network is None:
            raise ModelError(f"Model {self.card.name!r} is computed without a network.")
        with self._lock:
            if str(device) not in self._networks:
                try:
                    network = _build(self.card.network, self._stored())
                except ModelError as error:
                    raise ModelError(f"{self.weights or self.card.title}: {error}") from error
                self._networks[str(device)] = network.eval().requires_grad_(False).to(device)
            return self._networks[str(device)]

    def with_card(self, card: ModelCard) -> Model:
        """Make a model of the same weights under another card."""
        return Model(card, self._state, weights=self.weights)

    def without_known_range(self) -> Model:
        """Give the same model without warnings of strange crystals: for those meant to be new."""
        return self.with_card(self.card.model_copy(update={"known": None}))

    def release(self) -> None:
        """Forget the networks that `network` made, and give device memory back."""
        import torch

        with self._lock:
            self._networks.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def save(self, folder: str | Path) -> Model:
        """Write the card and the weights into a folder that `load_model` takes.

        Parameters
        ----------
        folder
            Made if it is missing; a model in it is replaced.

        Returns
        -------
        Model
            The same model, living in that folder.

        Raises
        ------
        FormatError
            If the files cannot be written.
        ModelError
            If `folder` cannot be made, or the weights cannot be read.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(f"{folder}: cannot be made a folder ({error.strerror}).") from error
        card, weights = self.card, None
        if card.network is not None:
            content = self._content()
            card = card.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
            weights = folder / WEIGHTS_FILE
            with write_aside(folder / _NEW_WEIGHTS) as aside:
                aside.write_bytes(content)
        with write_aside(folder / CARD_FILE) as aside:
            aside.write_text(card.to_json(), encoding="utf-8")
        if weights is not None:
            (folder / _NEW_WEIGHTS).replace(weights)
        return Model(card, weights=weights)

    def _stored(self) -> dict[str, Tensor]:
        if self._state is not None:
            return self._state
        assert self.weights is not None
        return _read_weights(kept_weights(self.weights, self.card.sha256), self.card.sha256)

    def _content(self) -> bytes:
        """Content of a weights file; that of the model's own stays the same to the byte."""
        if self._state is not None:
            from safetensors.torch import save

            return save(self._state)
        assert self.weights is not None
        weights = kept_weights(self.weights, self.card.sha256)
        _check(weights, self.card.sha256)
        return weights.read_bytes()


def _build(spec: NetworkSpec, stored: Mapping[str, Tensor]) -> nn.Module:
    """Make a network of stored parameters.

    It is made without memory first, so that a card cannot ask for more than its weights fill.

    Raises
    ------
    ModelError
        If it cannot be built, or names or shapes of the parameters differ from its own.
    """
    import torch

    with torch.device("meta"):
        sketch = networks.build(spec.name, **spec.arguments)
    shapes = {name: tuple(value.shape) for name, value in sketch.state_dict().items()}
    state = _fitting(stored, shapes, spec.name)
    network = networks.build(spec.name, **spec.arguments)
    network.load_state_dict(state)
    return network


def _fitting(
    stored: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], network: str
) -> dict[str, Tensor]:
    """Stored parameters, restored, if they have the names and shapes of those of a network."""
    state = restore(stored, expected)
    refusal = f"the weights do not fit {network}:"
    missing, unexpected = expected.keys() - state.keys(), state.keys() - expected.keys()
    for what, names in (("lack", missing), ("hold the unknown", unexpected)):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
            raise ModelError(f"{refusal} they {what} {shown}.")
    for name, value in state.items():
        if tuple(value.shape) != expected[name]:
            raise ModelError(
                f"{refusal} {name} has shape {tuple(value.shape)} instead of {expected[name]}."
            )
    return state


def restore(
    stored: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Undo compact storage.

    Parameters
    ----------
    stored
        Parameters by name. A pair ``K.left`` (m, r) and ``K.right`` (r, n) stands for their
        product K; floating numbers may be of half precision.
    shapes
        Shapes of the parameters, which products are brought to.

    Returns
    -------
    dict
        Parameters by name, floating ones in float32.
    """
    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in stored.items()
    }
    for left in [name for name in state if name.endswith(".left")]:
        whole = left.removesuffix(".left")
        right = f"{whole}.right"
        if right not in state:
            continue
        factors = state.pop(left), state.pop(right)
        try:
            m, n = factors[0].shape[0], factors[1].shape[-1]
            shape = shapes.get(whole, (m, n))
            if m * n != prod(shape):  # before it takes memory
                raise ValueError(f"{m} × {n} is not {shape}")
            state[whole] = (factors[0] @ factors[1]).reshape(shape)
        except (RuntimeError, IndexError, ValueError) as error:
            raise ModelError(f"the factors of {whole} do not give its shape: {error}.") from error
    return state


def _copies(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}


def _read_weights(path: Path, sha256: str | None) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _check(path, sha256)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelError(f"the weights are not a safetensors file ({error}).") from error


def kept_weights(path: Path, sha256: str | None) -> Path:
    """Where weights are: beside their place if the program ended while it replaced a model."""
    new = path.with_name(_NEW_WEIGHTS)
    return new if new.exists() and hashlib.sha256(new.read_bytes()).hexdigest() == sha256 else path


def _check(path: Path, sha256: str | None) -> None:
    """Raise `ModelError` if the file is not the one that a card was made for."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"the weights cannot be read ({error.strerror}).") from error
    if found != sha256:
        raise ModelError(
            f"the weights are not the ones of the card (sha256 {found[:12]}…, the card says "
            f"{sha256[:12] + '…' if sha256 else 'none'}). Get or save the model anew."
        )
