"""The project's modules, built and run for reference vectors of other implementations.

A vector is a safetensors file with ``state/<key>``, ``in/<name>`` and ``out/<name>`` tensors and a
``config`` string (JSON) in its metadata.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from napari_vox3d.networks import mdnc

_MDNC = ("ConvModern", "EncoderNet", "UNet", "AE", "DecoderNet")
_NVSUBQ = ("ExponentialModulationND", "CKConvND")


def build(config: dict[str, Any], state: dict[str, Tensor]) -> torch.nn.Module:
    """The project's module for the `config` of a vector, with its `state` loaded."""
    return _family(config).build(config, state).eval()


def run(module: torch.nn.Module, config: dict[str, Any], inputs: dict[str, Tensor]) -> list[Tensor]:
    """Outputs of a module from `build` on the inputs of a vector, in order."""
    with torch.no_grad():
        return _family(config).run(module, config, inputs)


def _family(config: dict[str, Any]) -> Any:
    name = config.get("cls", "")
    if "fn" in config or name in _NVSUBQ:
        return _Continuous
    if name[:-2] in _MDNC and name[-2:] in ("1d", "2d", "3d"):
        return _Convolutional
    return _Attention


class _Convolutional:
    """EncoderNet and its family (MDNC)."""

    @staticmethod
    def build(config: dict[str, Any], state: dict[str, Tensor]) -> torch.nn.Module:
        module = getattr(mdnc, config["cls"])(**config["kwargs"])
        module.load_state_dict(state)
        return module

    @staticmethod
    def run(
        module: torch.nn.Module, config: dict[str, Any], inputs: dict[str, Tensor]
    ) -> list[Tensor]:
        return [module(inputs["x"])]


class _Continuous:
    """Continuous kernels and FFT convolutions (nvSubquadratic)."""


class _Attention:
    """Cells, blocks and backbones (SNRAware)."""
