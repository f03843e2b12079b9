"""Losses between a predicted and a true ELF on periodic grids.

The terms and their default parameters are those of ELFNet
(https://github.com/Austin243/ELFNet, MIT): a voxel term, a gradient term and a term between the
distributions of values, balanced by learnt logarithmic variances (Kendall et al. 2018,
arXiv:1705.07115).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DELTA = 0.1  # error at which the voxel term turns from quadratic to linear
GAMMA = 2.0  # the larger, the less the dense cores count
LARGEST_ETA = 5.0


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
    cell = (1, 2, 3, 4)
    weights = (1 - sad / sad.amax(cell, keepdim=True)).clamp(0, 1) ** gamma
    return weights / weights.mean(cell, keepdim=True).clamp_min(1e-6)


def voxel_loss(predicted: Tensor, true: Tensor, weights: Tensor, delta: float = DELTA) -> Tensor:
    """Weighted mean of the smooth L1 distance; all arguments (B, 1, D, H, W)."""
    return (weights * F.smooth_l1_loss(predicted, true, beta=delta, reduction="none")).mean()


def gradient_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean L1 distance of the periodic forward differences along the three grid axes."""
    error = predicted - true
    steps = [(error.roll(-1, axis) - error).abs().mean() for axis in (2, 3, 4)]
    return torch.stack(steps).mean()


def distribution_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """Wasserstein-1 distance of the values in each cell, averaged over the batch."""
    return (predicted.flatten(1).sort(1).values - true.flatten(1).sort(1).values).abs().mean()


def balance(losses: list[Tensor], etas: list[nn.Parameter]) -> Tensor:
    """Sum of exp(−η) L + η over the terms, with η held within ±5."""
    held = [eta.clamp(-LARGEST_ETA, LARGEST_ETA) for eta in etas]
    return torch.stack(
        [torch.exp(-eta) * loss + eta for eta, loss in zip(held, losses, strict=True)]
    ).sum()
