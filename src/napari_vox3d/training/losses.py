"""Losses between a predicted and a true ELF on periodic grids.

The terms and their default parameters are those of ELFNet
(https://github.com/Austin243/ELFNet, MIT): voxels, gradients, the distribution of values and the
peaks, balanced by learnt logarithmic variances (Kendall et al. 2018, arXiv:1705.07115). `Objective`
puts them together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_vox3d.errors import Vox3dError

DELTA = 0.1  # error at which the voxel term turns from quadratic to linear
GAMMA = 2.0  # the larger, the less the dense cores count
LARGEST_ETA = 5.0
CDF_VOXELS = 20_000  # of one cell that the distribution terms look at, at most
CDF_BINS, CDF_WIDTH = 64, 0.02  # thresholds of the soft distribution, and how soft they are
TAIL_START, TAIL_WEIGHT = 0.60, 2.0  # its weight rises from 1 at the start to this at 1
PEAK_DEPTH, LOWEST_PEAK = 0.12, 0.5  # a peak is what lies above the maximum less the depth
PEAK_WIDTH = 0.05  # softness of that threshold
PEAK_SHARE, FEWEST_PEAK_VOXELS, MOST_PEAK_VOXELS = 0.002, 32, 512

_CELL = (1, 2, 3, 4)


def density_weights(sad: Tensor, gamma: float = GAMMA) -> Tensor:
    """Weights (1 − s/max s)^γ that turn the attention away from dense cores.

    Parameters
    ----------
    sad
        (B, 1, D, H, W) superposed atomic density.
    gamma
        Exponent; 0 weighs all voxels alike.

    Returns
    -------
    Tensor
        (B, 1, D, H, W), mean 1 for each sample.
    """
    weights = (1 - sad / sad.amax(_CELL, keepdim=True)).clamp(0, 1) ** gamma
    return weights / weights.mean(_CELL, keepdim=True).clamp_min(1e-6)


def voxel_loss(predicted: Tensor, true: Tensor, weights: Tensor, delta: float = DELTA) -> Tensor:
    """Weighted mean of the smooth L1 distance; all arguments (B, 1, D, H, W)."""
    return (weights * F.smooth_l1_loss(predicted, true, beta=delta, reduction="none")).mean()


def gradient_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean L1 distance of the periodic forward differences along the three grid axes."""
    error = predicted - true
    steps = [(error.roll(-1, axis) - error).abs().mean() for axis in (2, 3, 4)]
    return torch.stack(steps).mean()


def distribution_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """Wasserstein-1 distance of the values in each cell, averaged over the batch.

    It is the mean distance of the sorted values. Cells of more than `CDF_VOXELS` voxels are
    represented by so many, chosen anew from torch's generator each time.
    """
    p, t = _sampled(predicted, true)
    return (p.sort(1).values - t.sort(1).values).abs().mean()


def soft_distribution_loss(
    predicted: Tensor, true: Tensor, bins: int = CDF_BINS, width: float = CDF_WIDTH
) -> Tensor:
    """Distance of the soft cumulative distributions of the values in each cell.

    At `bins` thresholds τ inside (0, 1) the share of values below is the mean of
    sigmoid((τ − value) / width). The absolute differences of those shares are averaged with
    weights that are 1 up to `TAIL_START` and rise from there to `TAIL_WEIGHT` at 1: few voxels
    have a high ELF, and they are the ones that chemists look at. Voxels are chosen as for
    `distribution_loss`.
    """
    p, t = _sampled(predicted, true)
    thresholds = torch.linspace(0, 1, bins + 2, device=p.device)[1:-1]
    tail = ((thresholds - TAIL_START) / (1 - TAIL_START)).clamp(0, 1)
    weights = 1 + (TAIL_WEIGHT - 1) * tail

    def below(values: Tensor) -> Tensor:
        return torch.sigmoid((thresholds[:, None] - values[:, None]) / width).mean(-1)

    return ((below(p) - below(t)).abs() * weights).sum(1).mean() / weights.sum()


def peak_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """Adaptive objective of the peaks of each cell: location + value + false peaks.

    Parameters
    ----------
    predicted, true
        (B, 1, D, H, W).

    Notes
    -----
    * Location: the Jensen–Shannon divergence of two distributions over the voxels, in proportion
      to softplus((ELF − θ) / 0.05) with θ = max(maximum of the cell − 0.12, 0.5), one of the
      predicted and one of the true ELF.
    * Value: the mean L1 distance at the k voxels where the true ELF is largest, k being 0.2 % of
      the voxels but 32 to 512.
    * False peaks: the mean excess of the predicted ELF at the k voxels where it is largest.
    """
    p, t = predicted.flatten(1), true.flatten(1)
    at_peaks = _peak_distribution(p), _peak_distribution(t)
    middle = (at_peaks[0] + at_peaks[1]) / 2
    location = sum(torch.xlogy(q, q / middle).sum(1).mean() / 2 for q in at_peaks)
    voxels = t.shape[1]
    wanted = max(FEWEST_PEAK_VOXELS, ceil(PEAK_SHARE * voxels))
    count = min(wanted, MOST_PEAK_VOXELS, voxels)
    highest, where = t.topk(count, 1)
    value = (p.gather(1, where) - highest).abs().mean()
    claimed, where = p.topk(count, 1)
    false = (claimed - t.gather(1, where)).clamp_min(0).mean()
    return location + value + false


def _peak_distribution(values: Tensor) -> Tensor:
    threshold = (values.amax(1, keepdim=True) - PEAK_DEPTH).clamp_min(LOWEST_PEAK)
    score = F.softplus((values - threshold) / PEAK_WIDTH) + 1e-12
    return score / score.sum(1, keepdim=True)


def _sampled(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """(B, voxels) of both, the same voxels, no more than `CDF_VOXELS`."""
    p, t = predicted.flatten(1), true.flatten(1)
    if p.shape[1] <= CDF_VOXELS:
        return p, t
    chosen = torch.randperm(p.shape[1], device=p.device)[:CDF_VOXELS]
    return p[:, chosen], t[:, chosen]


def balance(losses: list[Tensor], etas: list[nn.Parameter]) -> Tensor:
    """Sum of exp(−η) L + η over the terms, with η held within ±5."""
    held = [eta.clamp(-LARGEST_ETA, LARGEST_ETA) for eta in etas]
    return torch.stack(
        [torch.exp(-eta) * loss + eta for eta, loss in zip(held, losses, strict=True)]
    ).sum()


Term = Callable[[Tensor, Tensor, Tensor], Tensor]

# Of predicted and true ELF and superposed density, and the parameter of the network that holds
# the term's logarithmic variance.
TERMS: dict[str, tuple[Term, str]] = {
    "voxel": (lambda p, t, s: voxel_loss(p, t, density_weights(s)), "eta_vox"),
    "gradient": (lambda p, t, s: gradient_loss(p, t), "eta_grad"),
    "cdf": (lambda p, t, s: distribution_loss(p, t), "eta_hist"),
    "soft-cdf": (lambda p, t, s: soft_distribution_loss(p, t), "eta_hist"),
    "peak": (lambda p, t, s: peak_loss(p, t), "eta_peak"),
}
DEFAULT_TERMS = ("voxel", "gradient", "cdf", "peak")


class Objective:
    """What a training minimises: some terms, with weights that are learnt or fixed.

    Parameters
    ----------
    terms
        Names from `TERMS`: ``"voxel"`` (`voxel_loss` with `density_weights`), ``"gradient"``
        (`gradient_loss`), ``"cdf"`` (`distribution_loss`) or ``"soft-cdf"``
        (`soft_distribution_loss`), ``"peak"`` (`peak_loss`). As a mapping they come with weights,
        which are 1 otherwise.
    learnt
        Whether the terms are balanced by learnt logarithmic variances (`balance`), the weights
        being those at the start, or else simply summed with their weights.

    Raises
    ------
    Vox3dError
        If there is no such term, no term at all, both forms of the distribution, or a weight is
        not positive.
    """

    def __init__(
        self, terms: Sequence[str] | Mapping[str, float] = DEFAULT_TERMS, learnt: bool = True
    ) -> None:
        weights = dict(terms) if isinstance(terms, Mapping) else dict.fromkeys(terms, 1.0)
        for name, weight in weights.items():
            if name not in TERMS:
                raise Vox3dError(f"No loss is called {name!r}; choose from {', '.join(TERMS)}.")
            if not weight > 0:
                raise Vox3dError(f"The weight of the loss {name!r} must be positive, not {weight}.")
        if not weights:
            raise Vox3dError(f"A training needs a loss; choose from {', '.join(TERMS)}.")
        if {"cdf", "soft-cdf"} <= weights.keys():
            raise Vox3dError("'cdf' and 'soft-cdf' are two forms of one loss; choose one.")
        self.weights, self.learnt = weights, learnt

    def prepare(self, network: nn.Module) -> None:
        """Let the network learn the variances of these terms and no others."""
        used = {TERMS[name][1] for name in self.weights} if self.learnt else set()
        for _, eta in TERMS.values():
            network.get_parameter(eta).requires_grad_(eta in used)

    def __call__(self, network: nn.Module, predicted: Tensor, true: Tensor, sad: Tensor) -> Tensor:
        """Loss of a batch; `predicted`, `true` and `sad` are (B, 1, D, H, W)."""
        terms = [
            weight * TERMS[name][0](predicted, true, sad) for name, weight in self.weights.items()
        ]
        if not self.learnt:
            return torch.stack(terms).sum()
        return balance(terms, [network.get_parameter(TERMS[name][1]) for name in self.weights])

    def __str__(self) -> str:
        """Words for a card."""
        words = [f"{w:g} × {name}" if w != 1 else name for name, w in self.weights.items()]
        return " + ".join(words) + (" with learnt weights" if self.learnt else "")
