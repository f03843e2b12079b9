"""Torch modules, nothing else; each is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from napari_vox3d.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from napari_vox3d.networks.backbones import HRNet, SOANet, UNet
    from napari_vox3d.networks.cells import Block
    from napari_vox3d.networks.ckconv import CartesianCKConv3d, CKConvND
    from napari_vox3d.networks.cryoet_cnn import CryoET3DCNN
    from napari_vox3d.networks.flat_resnet import ELFPredictor, FlatResNet3D
    from napari_vox3d.networks.fourier import fft_conv
    from napari_vox3d.networks.kernels import ExponentialModulationND, FourierKernel, SirenKernel
    from napari_vox3d.networks.mdnc import AE3d, DecoderNet3d, EncoderNet3d, UNet3d
    from napari_vox3d.networks.pickers import DensePicker

_HOMES = {
    "ELFPredictor": "flat_resnet",
    "FlatResNet3D": "flat_resnet",
    "CryoET3DCNN": "cryoet_cnn",
    "DensePicker": "pickers",
    "EncoderNet3d": "mdnc",
    "UNet3d": "mdnc",
    "AE3d": "mdnc",
    "DecoderNet3d": "mdnc",
    "ExponentialModulationND": "kernels",
    "SirenKernel": "kernels",
    "FourierKernel": "kernels",
    "CKConvND": "ckconv",
    "CartesianCKConv3d": "ckconv",
    "Block": "cells",
    "UNet": "backbones",
    "HRNet": "backbones",
    "SOANet": "backbones",
}
_FUNCTIONS = {"fft_conv": "fourier"}

__all__ = [
    "AE3d",
    "Block",
    "CKConvND",
    "CartesianCKConv3d",
    "CryoET3DCNN",
    "DecoderNet3d",
    "DensePicker",
    "ELFPredictor",
    "EncoderNet3d",
    "ExponentialModulationND",
    "FlatResNet3D",
    "FourierKernel",
    "HRNet",
    "SOANet",
    "SirenKernel",
    "UNet",
    "UNet3d",
    "build",
    "fft_conv",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name) or _FUNCTIONS.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_FUNCTIONS})


def build(name: str, **arguments: Any) -> nn.Module:
    """Make a network with fresh random weights.

    Parameters
    ----------
    name
        Name of a network class of this package, such as ``"CryoET3DCNN"``.
    **arguments
        Arguments of that class.

    Raises
    ------
    ModelError
        If there is no such network, or it does not take these arguments.
    """
    if name not in _HOMES:
        raise ModelError(f"Unknown network {name!r}; choose one of {', '.join(sorted(_HOMES))}.")
    network = __getattr__(name)
    known = signature(network).parameters
    unknown = sorted(set(arguments) - set(known))
    open_ended = any(one.kind is Parameter.VAR_KEYWORD for one in known.values())
    if unknown and not open_ended:
        raise ModelError(
            f"{name} has no argument {', '.join(unknown)}; it takes {', '.join(known)}."
        )
    try:
        return network(**arguments)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).rstrip(".")
        raise ModelError(f"{name} cannot be built with {arguments}: {reason}.") from error
