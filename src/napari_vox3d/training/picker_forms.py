"""How each kind of picking network is trained: its crops, targets and normalisation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from napari_vox3d.errors import ModelError
from napari_vox3d.models import Model, NetworkSpec, ParticleClass
from napari_vox3d.networks import build
from napari_vox3d.networks.cryoet_cnn import WINDOW, CryoET3DCNN, DenseCryoET3DCNN, factor
from napari_vox3d.networks.pickers import DensePicker
from napari_vox3d.networks.pooled import pooled_convolution
from napari_vox3d.training.picker_targets import Particles, balls, bells

RANK = 24  # of the factored first classifier layer
_BACKGROUND = 3.0  # first logit of the background: most places are empty
_MOMENTUM = 0.02  # of the running statistics


class TrainingForm(nn.Module, ABC):
    """A network while it is trained; takes crops (B, 1, e, e, e), gives logits of their cells.

    Attributes
    ----------
    network
        What is trained.
    head
        Name of its last layer, whose last output is the background.
    edge
        Voxels of a crop.
    beyond
        Voxels that a crop may reach beyond the tomogram.
    batch
        Crops of a step.
    rate
        Of learning, from random weights.
    centres
        Of the cells along an axis, in voxels of the crop; symmetrical about its middle.
    target
        `bells` or `balls`.
    norms
        Layers whose statistics are those of the batch while training.
    groups
        Outputs that make up each class; the others are the background.
    fresh
        Whether outputs have random weights where all else is learnt.
    """

    network: nn.Module
    head: str
    edge: int
    beyond: int
    batch: int
    rate: float
    centres: NDArray[np.floating]
    target: Callable[[Particles, int, NDArray[np.floating]], NDArray[np.float32]]
    norms: Iterable[nn.Module]
    groups: Sequence[Sequence[int]]
    fresh: bool = False

    def grouped(self, logits: Tensor) -> Tensor:
        """Logits (B, classes and background, d, h, w) from those of all outputs."""
        taken = {output for group in self.groups for output in group}
        background = [output for output in range(logits.shape[1]) if output not in taken]
        if len(background) == 1 and all(len(group) == 1 for group in self.groups):
            return logits[:, [*(group[0] for group in self.groups), *background]]
        together = [logits[:, list(group)].logsumexp(1) for group in (*self.groups, background)]
        return torch.stack(together, 1)

    def normalise(self, over_batches: bool, steps: int) -> None:
        """Take the statistics of the batch in the next step, or the mean ones of those before.

        Parameters
        ----------
        over_batches
            False for the mean ones.
        steps
            Taken so far: the more, the longer the mean remembers them.
        """
        for norm in self.norms:
            norm.train(over_batches)
            cast("nn.BatchNorm3d", norm).momentum = max(_MOMENTUM, 3 / (steps + 3))

    def narrow(self, radius: float) -> None:
        """Take smaller crops if particles of a radius (voxels) fit in: more of them are seen."""

    @abstractmethod
    def finish(self) -> tuple[NetworkSpec, dict[str, Tensor]]:
        """Give the trained network as a card names it, and its parameters."""


class WindowForm(TrainingForm):
    """`CryoET3DCNN`, dense and factored, with the outputs of layers normalised over the crop.

    Plain layers hardly begin to learn from tomograms this noisy. `finish` puts the mean statistics
    into the weights and biases, which leaves the specified network.
    """

    network: DenseCryoET3DCNN
    head = "classifier.3"
    edge: int = 96
    beyond = WINDOW // 2
    batch = 1
    rate = 2e-3
    target = staticmethod(bells)
    stride: ClassVar = 8
    margin: ClassVar = 2  # cells around the crop's features that windows may reach over

    def __init__(self, network: DenseCryoET3DCNN) -> None:
        super().__init__()
        self.network = network
        count = self.edge // self.stride + 2 * self.margin - WINDOW // self.stride + 1
        self.centres = (WINDOW - 1) / 2 + self.stride * (np.arange(count) - self.margin)
        layers = [m for m in network.modules() if isinstance(m, nn.Conv3d)]
        *convolutions, spread, mix, _ = layers
        self._spread, self._layers = [spread], [*convolutions, mix]  # lists: registered only once
        for layer in convolutions:  # a third faster on processors
            weight = layer.weight
            weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)
        self.norms = nn.ModuleList(
            nn.BatchNorm3d(layer.out_channels, affine=False) for layer in self._layers
        )

    def forward(self, crops: Tensor) -> Tensor:
        """Logits at the windows about `centres`."""
        for layer, norm in zip(self._layers, self.norms, strict=True):
            if layer.kernel_size == (1, 1, 1):
                crops = F.conv3d(self._spread[0](F.pad(crops, (self.margin,) * 6)), layer.weight)
            else:
                crops = _pooled(crops, layer.weight)
            crops = F.relu(norm(crops) + _bias(layer)[:, None, None, None])
        _, _, dropout, last = self.network.classifier
        return last(dropout(crops))

    def finish(self) -> tuple[NetworkSpec, dict[str, Tensor]]:
        """Give `CryoET3DCNN` and its parameters in half precision, the large layer factored."""
        network = self.fold()
        arguments = {"num_classes": network.classifier[3].out_channels}
        spec = NetworkSpec(name="CryoET3DCNN", arguments=arguments)
        return spec, {key: value.half() for key, value in network.windowed_state().items()}

    @torch.no_grad()
    def fold(self) -> DenseCryoET3DCNN:
        """Give the plain network that computes the same with the mean statistics."""
        for layer, norm in zip(self._layers, self.norms, strict=True):
            mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
            scale = (variance + cast("nn.BatchNorm3d", norm).eps).rsqrt()
            layer.weight.mul_(scale[:, None, None, None, None])
            _bias(layer).sub_(mean * scale)
        return self.network


class DenseForm(TrainingForm):
    """`DensePicker`, as it is.

    Parameters
    ----------
    network
        To train.
    arguments
        What it was built with.
    """

    network: DensePicker
    head = "head"
    edge: int = 64
    beyond = 0
    batch = 2
    rate = 3e-3
    target = staticmethod(balls)

    def __init__(self, network: DensePicker, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.network, self._arguments = network, arguments
        self._cut(self.edge)
        self.norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d)]

    def _cut(self, edge: int) -> None:
        multiple, stride = self.network.multiple, self.network.stride
        self.edge = -(-edge // multiple) * multiple
        self.centres = stride * (np.arange(self.edge // stride) + 0.5) - 0.5

    def narrow(self, radius: float) -> None:
        """Take crops of three quarters of the edge, if that is three radii (voxels) or more."""
        if 0.75 * self.edge >= 3 * radius:
            self._cut(3 * self.edge // 4)

    def forward(self, crops: Tensor) -> Tensor:
        """Logits of all cells."""
        return self.network(crops)

    def finish(self) -> tuple[NetworkSpec, dict[str, Tensor]]:
        """Give `DensePicker` and its parameters."""
        spec = NetworkSpec(name="DensePicker", arguments=self._arguments)
        return spec, self.network.state_dict()


def new_form(
    network: str, arguments: dict[str, Any], kinds: Sequence[ParticleClass]
) -> TrainingForm:
    """Network with random weights, ready to learn.

    Parameters
    ----------
    network
        ``"CryoET3DCNN"`` or ``"DensePicker"``.
    arguments
        Of it, without the number of classes.
    kinds
        Classes to learn.
    """
    form = _form(network, arguments, len(kinds) + 1)
    if isinstance(form, WindowForm):
        _look_at_the_centre(form.network)
    with torch.no_grad():
        form.network.get_parameter(f"{form.head}.bias")[-1] = _BACKGROUND
    form.groups = [[row] for row in range(len(kinds))]
    return form


def form_of(
    start: Model, kinds: Sequence[ParticleClass], alike: Mapping[str, str] | None = None
) -> TrainingForm:
    """Network with the weights of a model; outputs of classes that it knows start from there.

    What else it knows it goes on telling from the classes to learn, as kinds of background.

    Parameters
    ----------
    start
        The model.
    kinds
        Classes to learn.
    alike
        Class of the model by new class, where a new one starts from the output of a known one.

    Raises
    ------
    ModelError
        If the network of the model cannot be trained here.
    """
    spec, network = start.card.network, start.network()
    if isinstance(network, CryoET3DCNN):
        known: nn.Module | None = None if network.batch_norm else factor(network, RANK)
    else:
        known = network if isinstance(network, DensePicker) else None
    if known is None or spec is None:
        raise ModelError(f"Training cannot start from the network of model {start.card.name!r}.")
    state = known.state_dict()
    head = DenseForm.head if isinstance(known, DensePicker) else WindowForm.head
    count = len(state[f"{head}.bias"])
    classes = [kind.name for kind in start.card.classes]
    outputs = dict(zip(classes, start.card.outputs, strict=True))
    rows: list[int | None] = []  # of the head of the model, for each of the new one; None: random
    groups = []
    for kind in kinds:
        own = outputs.get((alike or {}).get(kind.name, kind.name), [None])
        groups.append(range(len(rows), len(rows) + len(own)))
        rows += own
    rows += [row for row in range(count) if row not in rows] or [None]
    form = _form(spec.name, spec.arguments, len(rows))
    form.groups, form.fresh = groups, None in rows
    new = form.network.state_dict()
    for key in (f"{head}.weight", f"{head}.bias"):
        old, state[key] = state[key], new[key]
        for place, row in enumerate(rows):
            if row is not None:
                state[key][place] = old[row]
    form.network.load_state_dict(state)
    return form


def _form(network: str, arguments: dict[str, Any], outputs: int) -> TrainingForm:
    if network == "CryoET3DCNN":
        return WindowForm(DenseCryoET3DCNN(outputs, RANK))
    whole = {**arguments, "num_classes": outputs}
    return DenseForm(cast("DensePicker", build(network, **whole)), whole)


def _pooled(maps: Tensor, weight: Tensor) -> Tensor:
    if maps.shape[1] == 1 and maps.device.type == "cpu":
        return pooled_convolution(maps, weight)
    return F.max_pool3d(F.conv3d(maps, weight, padding=1), 2)


def _look_at_the_centre(network: DenseCryoET3DCNN) -> None:
    """Let the random weights of the 8³ convolution fade towards the border of the window."""
    cells = torch.arange(8) - 3.5
    bell = torch.exp(-((cells / 2) ** 2) / 2)
    envelope = bell[:, None, None] * bell[:, None] * bell
    with torch.no_grad():
        weight = network.get_parameter("classifier.0.0.weight")
        weight.mul_(envelope / envelope.square().mean().sqrt())


def _bias(layer: nn.Conv3d) -> Tensor:
    assert layer.bias is not None
    return layer.bias
