"""`CryoET3DCNN`: which particle sits at the centre of a window, for one window or a whole volume.

The network classifies windows of 64³ voxels. Its dense form slides it over a volume in one fully
convolutional pass: the first fully connected layer becomes an 8³ convolution, the second a 1³ one.
Both agree on an input of exactly 64³. On larger inputs they differ, because each separate window
pads its own border with zeros while the dense form sees what lies there; so train the dense form
for dense use.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_vox3d.networks.spectral import SpectralConv3d

WINDOW = 64  # voxels along each edge of a window
HALO = 8  # voxels that the zero padding at the border of an input reaches, rounded up to a stride
_CELLS = 8  # feature cells along each edge of a window
_CHANNELS = (1, 32, 64, 128)
_HIDDEN = 512
_PLANES = 8  # at full resolution at a time: about what a processor's cache holds

Stride = Literal[4, 8]


class CryoET3DCNN(nn.Module):
    """Classifier of 64³ windows: three convolutions with pooling, two fully connected layers.

    Parameters
    ----------
    num_classes
        Outputs, the background among them.
    dropout
        Probability in the classifier.
    batch_norm
        Normalise each convolution's output over the batch. The specification names this in its
        text but not in its list of layers, so it is off unless asked for; it changes the names of
        the parameters of ``features``.

    Notes
    -----
    Convolutions start from Kaiming's normal distribution (fan-out) and zero bias, linear layers
    from PyTorch's default. With 6 classes there are 33,835,590 parameters.
    """

    def __init__(
        self, num_classes: int = 6, dropout: float = 0.5, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.num_classes, self.dropout, self.batch_norm = num_classes, dropout, batch_norm
        self.features = _features(batch_norm)
        self.classifier = nn.Sequential(
            nn.Linear(_CHANNELS[-1] * _CELLS**3, _HIDDEN),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(_HIDDEN, num_classes),
        )

    def forward(self, windows: Tensor) -> Tensor:
        """Classify windows.

        Parameters
        ----------
        windows
            (B, 1, 64, 64, 64) normalised densities.

        Returns
        -------
        Tensor
            (B, num_classes) logits.

        Raises
        ------
        ValueError
            If the windows have another shape.
        """
        if windows.shape[1:] != (1, WINDOW, WINDOW, WINDOW):
            raise ValueError(
                f"CryoET3DCNN takes windows of shape (B, 1, 64, 64, 64), not "
                f"{tuple(windows.shape)}; use dense() for whole volumes"
            )
        return self.classifier(self.features(windows).flatten(1))

    def dense(self) -> DenseCryoET3DCNN:
        """Fully convolutional form, on the same weights in memory."""
        with torch.device("meta"):  # 135 MB need not be filled to be replaced
            dense = DenseCryoET3DCNN(self.num_classes, dropout=self.dropout, features=self.features)
        shapes = {name: value.shape for name, value in dense.state_dict().items()}
        state = {name: value.view(shapes[name]) for name, value in self.state_dict().items()}
        dense.load_state_dict(state, assign=True)
        return dense.train(self.training)


class DenseCryoET3DCNN(nn.Module):
    """`CryoET3DCNN` at every window of a volume, in one pass.

    Parameters
    ----------
    num_classes
        Outputs, the background among them.
    rank
        Factor the 8³ convolution into one with `rank` outputs and a 1³ one. None: leave it whole.
        A factored network is much cheaper and can be stored in a few megabytes; its product is an
        ordinary `CryoET3DCNN`.
    dropout
        Probability in the classifier.
    features
        Convolutional part to share; None makes a new one.
    """

    def __init__(
        self,
        num_classes: int = 6,
        rank: int | None = None,
        dropout: float = 0.5,
        features: nn.Sequential | None = None,
    ) -> None:
        super().__init__()
        self.features = _features(False) if features is None else features
        window: nn.Module
        if rank is None:
            window = nn.Conv3d(_CHANNELS[-1], _HIDDEN, _CELLS)
        else:
            window = nn.Sequential(
                nn.Conv3d(_CHANNELS[-1], rank, _CELLS, bias=False), nn.Conv3d(rank, _HIDDEN, 1)
            )
        self.classifier = nn.Sequential(
            window, nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Conv3d(_HIDDEN, num_classes, 1)
        )

    def forward(self, volume: Tensor, stride: Stride = 8) -> Tensor:
        """Classify every window whose corner lies on a multiple of `stride`.

        Parameters
        ----------
        volume
            (B, 1, D, H, W) normalised densities; multiples of 8 along each axis, at least 64.
        stride
            Voxels between windows. 4 leaves out the stride of the last pooling and spreads the 8³
            convolution instead: the same network, evaluated at more places.

        Returns
        -------
        Tensor
            (B, num_classes, d, h, w) logits with d = (D − 64) / stride + 1 and so on. Logit
            (k, j, i) belongs to the window centred at voxel ``stride * (k, j, i) + 31.5``.

        Raises
        ------
        ValueError
            If the volume is smaller than a window or not a multiple of 8 long.
        """
        if min(volume.shape[2:]) < WINDOW or any(n % 8 for n in volume.shape[2:]):
            raise ValueError(
                f"volumes need at least 64 voxels, in multiples of 8, along each axis, not "
                f"{tuple(volume.shape[2:])}"
            )
        return self.classify(self.extract(volume, stride), stride)

    def extract(self, volume: Tensor, stride: Stride = 8) -> Tensor:
        """Feature cells of a volume (B, 1, D, H, W): (B, 128, d, h, w).

        With stride 8 there is one cell for 8³ voxels; with stride 4 the cells overlap by half and
        d = D / 4 − 1.
        """
        learning = self.training or torch.is_grad_enabled()
        if volume.device.type == "cpu" and not learning:
            return _extract_fast(self.features, volume, stride)
        *layers, pool = self.features
        for layer in layers:
            volume = layer(volume)
        return F.max_pool3d(volume, 2, stride=1) if stride == 4 else pool(volume)

    def classify(self, features: Tensor, stride: Stride = 8) -> Tensor:
        """Logits (B, num_classes, …) of the windows that lie wholly on the features given."""
        window, *head = self.classifier
        spread, *rest = window if isinstance(window, nn.Sequential) else (window,)
        logits = spread(features) if stride == 8 else _interleaved(spread, features)
        for layer in (*rest, *head):
            logits = layer(logits)
        return logits

    def use_transforms(self) -> None:
        """Let the 8³ convolution of a factored classifier be done by Fourier transforms.

        Twice as fast on processors, and for inference only: the layer cannot learn any more.
        """
        window = self.classifier[0]
        if isinstance(window, nn.Sequential) and isinstance(window[0], nn.Conv3d):
            window[0] = SpectralConv3d(window[0])

    def windowed_state(self) -> dict[str, Tensor]:
        """Parameters under the names of `CryoET3DCNN`.

        A factored first layer is given as ``classifier.0.weight.left`` (512, rank) and
        ``classifier.0.weight.right`` (rank, 65536); their product is the layer's weight.
        """
        names = {
            "classifier.0.0.weight": "classifier.0.weight.right",
            "classifier.0.1.weight": "classifier.0.weight.left",
            "classifier.0.1.bias": "classifier.0.bias",
        }
        state = {}
        for name, value in self.state_dict().items():
            matrix = name.startswith("classifier.") and value.ndim > 1
            state[names.get(name, name)] = value.flatten(1) if matrix else value
        return state


def _extract_fast(features: nn.Sequential, volume: Tensor, stride: Stride) -> Tensor:
    """Feature cells on a processor, without gradients: a third of the time.

    The first layer, which takes most of it otherwise, sees images of three channels, a plane with
    those below and above; a few at a time, so that no map of full size ever comes to be. Channels
    lie last in memory, activations come after the pooling, on an eighth of the values.
    """
    layers = list(features)
    size = len(layers) // (len(_CHANNELS) - 1)
    convolution, *norms = layers[: size - 2]
    assert isinstance(convolution, nn.Conv3d)
    padded = F.pad(volume[:, 0], (0, 0, 0, 0, 1, 1))
    pieces = []
    for begin in range(0, volume.shape[2], _PLANES):
        planes = padded[:, begin : begin + _PLANES + 2].unfold(1, 3, 1).permute(0, 1, 4, 2, 3)
        images = planes.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        maps = F.conv2d(images, convolution.weight[:, 0], convolution.bias, padding=1)
        maps = maps.unflatten(0, planes.shape[:2]).transpose(1, 2)
        for norm in norms:
            maps = norm(maps)
        pieces.append(_largest_of_8(maps, 2).relu_())
    maps = torch.cat(pieces, 2)
    for begin in range(size, len(layers), size):
        for layer in layers[begin : begin + size - 2]:
            maps = layer(maps)
        last = begin + size == len(layers)
        maps = _largest_of_8(maps, 1 if last and stride == 4 else 2).relu_()
    return maps


def _largest_of_8(maps: Tensor, step: Literal[1, 2]) -> Tensor:
    """Largest values of cubes of 2³ voxels, each `step` from the next.

    Like `torch.nn.functional.max_pool3d`, which is ten times slower on processors.
    """
    for axis in (2, 3, 4):
        pairs = maps.unfold(axis, 2, step)
        maps = torch.maximum(pairs[..., 0], pairs[..., 1])
    return maps


def _interleaved(layer: nn.Module, features: Tensor) -> Tensor:
    """Convolution of every second cell along each axis, from every cell on.

    The eight interleaved grids go through the plain layer: several times faster than dilation.
    """
    wanted = [n - 2 * _CELLS + 2 for n in features.shape[2:]]
    even = F.pad(features, [pad for n in reversed(features.shape[2:]) for pad in (0, n % 2)])
    grids = even.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    grids = grids.permute(3, 5, 7, 0, 1, 2, 4, 6)
    found = layer(grids.flatten(0, 3)).unflatten(0, grids.shape[:4])
    whole = found.permute(3, 4, 5, 0, 6, 1, 7, 2).flatten(6, 7).flatten(4, 5).flatten(2, 3)
    return whole[(..., *(slice(n) for n in wanted))]


def factor(network: CryoET3DCNN, rank: int, *, exact: bool = False) -> DenseCryoET3DCNN | None:
    """Dense form with its first classifier layer factored; the features stay shared.

    Parameters
    ----------
    network
        Network to factor.
    rank
        Largest rank; the best approximation is taken if the layer has a higher one.
    exact
        Give None instead of an approximation, and no more ranks than the layer really has. The
        layers of networks that were trained factored are of low rank.
    """
    state = network.state_dict()
    weight = state["classifier.0.weight"]
    left, right = _low_rank(weight, rank)
    if exact:
        if (weight - left @ right).norm() > 1e-4 * weight.norm():
            return None
        sizes = left.square().sum(0)  # the singular values
        rank = max(1, int((sizes > 1e-5 * sizes[0]).sum()))
        left, right = left[:, :rank], right[:rank]
    state |= {
        "classifier.0.0.weight": right.contiguous(),
        "classifier.0.1.weight": left.contiguous(),
        "classifier.0.1.bias": state.pop("classifier.0.bias"),
    }
    del state["classifier.0.weight"]
    dense = DenseCryoET3DCNN(
        network.num_classes, rank, dropout=network.dropout, features=network.features
    )
    shapes = {name: value.shape for name, value in dense.state_dict().items()}
    dense.load_state_dict(
        {name: value.view(shapes[name]) for name, value in state.items()}, assign=True
    )
    return dense.train(network.training)


def _low_rank(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (m, rank) and (rank, n) of a matrix, by falling singular value, balanced.

    A random range finder with two power iterations (Halko et al. 2011, arXiv:0909.4061), from a
    fixed seed.
    """
    chance = torch.Generator().manual_seed(0)
    probes = torch.randn(weight.shape[1], rank + 16, generator=chance).to(weight)
    basis = torch.linalg.qr(weight @ probes).Q
    for _ in range(2):
        basis = torch.linalg.qr(weight @ (weight.T @ basis)).Q
    left, sizes, right = torch.linalg.svd(basis.T @ weight, full_matrices=False)
    scale = sizes[:rank].sqrt()
    return basis @ left[:, :rank] * scale, scale[:, None] * right[:rank]


def _features(batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(_CHANNELS):
        convolution = nn.Conv3d(inputs, outputs, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        layers += [convolution, *([nn.BatchNorm3d(outputs)] if batch_norm else [])]
        layers += [nn.ReLU(inplace=True), nn.MaxPool3d(2)]
    return nn.Sequential(*layers)
