"""Networks that a user may choose to train, by plain name and in two sizes; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from napari_vox3d.errors import ModelError

Size = Literal["small", "large"]


@dataclass(frozen=True)
class Architecture:
    """A network to choose by name.

    Parameters
    ----------
    name
        For scripts and the shell.
    title
        For menus.
    task
        What it is for.
    network
        Its name for `napari_vox3d.networks.build`.
    small, large
        Arguments for a laptop without a graphics card, and for a machine with one. Numbers of
        classes or input channels are added by training.
    about
        One sentence: when to take it.
    """

    name: str
    title: str
    task: Literal["elf", "picking"]
    network: str
    small: dict[str, Any]
    large: dict[str, Any]
    about: str

    def arguments(self, size: Size) -> dict[str, Any]:
        """Arguments of the network in a size.

        Raises
        ------
        ModelError
            If `size` is neither ``"small"`` nor ``"large"``.
        """
        if size not in ("small", "large"):
            raise ModelError(f"Networks come as 'small' or 'large', not {size!r}.")
        return dict(self.small if size == "small" else self.large)


_CONVOLUTIONS = {"blocks": ["C3"], "mixer_ratio": 1.0, "drop_path": 0.0}
_DEEPER = {**_CONVOLUTIONS, "blocks": ["C3", "C3C3"]}  # coarser levels cost little
_WINDOWS = {
    "blocks": ["C3L3"],
    "window": [4, 4, 4],
    "patch": [1, 2, 2],
    "heads": 4,
    "mixer_ratio": 1.0,
    "drop_path": 0.0,
}

ARCHITECTURES = (
    Architecture(
        name="unet",
        title="U-Net",
        task="picking",
        network="DensePicker",
        small={"backbone": "UNet", "channels": 12, "levels": 3, **_DEEPER},
        large={"backbone": "UNet", "channels": 32, "levels": 3, **_DEEPER},
        about="Accurate and fast; the one to take if unsure.",
    ),
    Architecture(
        name="hrnet",
        title="HRNet",
        task="picking",
        network="DensePicker",
        small={"backbone": "HRNet", "channels": 8, "levels": 3, **_CONVOLUTIONS},
        large={"backbone": "HRNet", "channels": 32, "levels": 3, **_CONVOLUTIONS},
        about="Keeps full resolution beside the coarse levels; slower to learn and to pick.",
    ),
    Architecture(
        name="soanet",
        title="SOANet",
        task="picking",
        network="DensePicker",
        small={"backbone": "SOANet", "channels": 16, "levels": 2, **_WINDOWS},
        large={"backbone": "SOANet", "channels": 32, "levels": 3, **_WINDOWS},
        about="Attention within windows; slower to learn and to pick.",
    ),
    Architecture(
        name="encodernet",
        title="EncoderNet",
        task="picking",
        network="DensePicker",
        small={"backbone": "EncoderNet3d", "channels": 16, "levels": 2, "layers": [1, 4]},
        large={"backbone": "EncoderNet3d", "channels": 32, "levels": 2, "layers": [2, 6]},
        about="Scores cells of four voxels; learns slowly.",
    ),
    Architecture(
        name="cryoet3dcnn",
        title="CryoET3DCNN",
        task="picking",
        network="CryoET3DCNN",
        small={},
        large={},
        about="Looks at windows of 64³ voxels; slow to learn.",
    ),
    Architecture(
        name="ckconv",
        title="CKConv",
        task="elf",
        network="ELFPredictor",
        small={"backbone": "ckconv", "base": 32, "blocks": 3},
        large={"backbone": "ckconv", "base": 128, "blocks": 8},
        about="Kernels measured in Å, right for every shape of cell; the one to take if unsure.",
    ),
    Architecture(
        name="flat-resnet",
        title="FlatResNet3D",
        task="elf",
        network="ELFPredictor",
        small={"base": 64, "blocks": 4, "kernel": 1, "attention_every": 0},
        large={"base": 32, "blocks": 16, "kernel": 5, "attention_every": 4},
        about="Residual network of periodic convolutions; only the large one looks at neighbours.",
    ),
)


def find_architecture(name: str, task: Literal["elf", "picking"]) -> Architecture:
    """Architecture by name.

    Raises
    ------
    ModelError
        If there is none of that name for the task.
    """
    known = {entry.name: entry for entry in ARCHITECTURES if entry.task == task}
    if name not in known:
        raise ModelError(f"There is no network {name!r} for {task}; choose {', '.join(known)}.")
    return known[name]
