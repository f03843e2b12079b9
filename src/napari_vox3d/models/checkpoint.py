"""Published PyTorch checkpoints, read without running any code they hold.

A checkpoint is a zip archive: a pickle that describes the objects, and one record of raw numbers
per storage. The pickle is interpreted with a closed list of names that it may refer to; every
other name becomes an inert stand-in that can only hold values.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from napari_vox3d.errors import ModelError
from napari_vox3d.models.card import ELFInput, ModelCard, NetworkSpec, ParticleClass, PickingInput
from napari_vox3d.models.model import Model

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_LARGEST_PICKLE = 64 * 2**20
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
# Classes of the published picker and their radii in Å (CZII cryo-ET challenge).
_CZII = (
    ("apo-ferritin", 60, "#e69f00"),
    ("ribosome", 150, "#56b4e9"),
    ("thyroglobulin", 130, "#009e73"),
    ("beta-galactosidase", 90, "#f0e442"),
    ("virus-like-particle", 135, "#cc79a7"),
)


def read_checkpoint(path: str | Path) -> Any:
    """Read what ``torch.save`` wrote, without running any code of it.

    Parameters
    ----------
    path
        A file in the zip format (PyTorch 1.6 or later).

    Returns
    -------
    object
        The saved object, with its tensors on the CPU. Ordered dicts and instances of foreign
        classes are dicts of their items and attributes.

    Raises
    ------
    ModelError
        If the file cannot be read, has the older format, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Archive(archive).load()
    except zipfile.BadZipFile as error:
        raise ModelError(
            f"{path}: is not a checkpoint in PyTorch's zip format. Load it where it was made and "
            "save it again with PyTorch 1.6 or later."
        ) from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except Exception as error:  # a hostile or damaged pickle can fail in any way
        raise ModelError(f"{path}: is not a sound checkpoint ({str(error) or error!r}).") from error


def model_from_checkpoint(path: str | Path) -> Model:
    """Make a model of a published ELFNet or CryoET3DCNN checkpoint.

    The card is written from what the file tells; its training says where the weights came from.

    Raises
    ------
    ModelError
        If the file is no checkpoint of these networks.
    """
    content = read_checkpoint(path)
    state = _state_of(content)
    try:
        if "net.stem.0.weight" in state:
            return _elf_model(Path(path), content, state)
        if "features.0.weight" in state and "classifier.3.weight" in state:
            return _picking_model(Path(path), content, state)
    except (IndexError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: its weights have unexpected shapes ({error}).") from error
    raise ModelError(
        f"{path}: holds no weights of ELFNet's flat network or of CryoET3DCNN"
        + (f" (its first entry is {next(iter(state))})." if state else ".")
    )


def _elf_model(path: Path, content: Any, state: dict[str, Tensor]) -> Model:
    import torch

    for name in ("eta_vox", "eta_grad", "eta_hist", "eta_peak"):
        state.setdefault(name, torch.zeros(()))  # weights of losses, absent from older files
    stem = state["net.stem.0.weight"]
    indices = {key.split(".")[2] for key in state if key.startswith("net.body.")}
    gates = [int(i) for i in indices if f"net.body.{i}.sa.conv.weight" in state]
    arguments = {
        "in_ch": stem.shape[1],
        "base": stem.shape[0],
        "kernel": stem.shape[2],
        "blocks": len(indices) - len(gates),
        "attention_every": min(gates, default=0),
    }
    card = ModelCard(
        name=_name_of(path),
        title=f"ELFNet checkpoint {path.name}",
        task="elf",
        network=NetworkSpec(name="ELFPredictor", arguments=arguments),
        input=ELFInput(channels=["sad"] * stem.shape[1], density="elfnet"),
        training=f"A published ELFNet checkpoint; it states: {_settings_of(content)}.",
        licence="that of its publisher",
        version="published",
        description="Expects superposed densities made of ELFNet's own atomic tables.",
    )
    return Model(card, state)


def _picking_model(path: Path, content: Any, state: dict[str, Tensor]) -> Model:
    outputs = len(state["classifier.3.weight"])
    kinds = _CZII if outputs == 6 else [(f"class {n}", 100, "#e69f00") for n in range(outputs - 1)]
    arguments = {"num_classes": outputs}
    if "features.1.running_mean" in state:
        arguments["batch_norm"] = True
    card = ModelCard(
        name=_name_of(path),
        title=f"CryoET3DCNN checkpoint {path.name}",
        task="picking",
        network=NetworkSpec(name="CryoET3DCNN", arguments=arguments),
        input=PickingInput(voxel_size=10, normalisation="none", contrast="dark"),
        classes=[ParticleClass(name=n, radius=radius, colour=c) for n, radius, c in kinds],
        background=outputs - 1,
        training=f"A published CryoET3DCNN checkpoint; it states: {_settings_of(content)}.",
        licence="that of its publisher",
        version="published",
        description="Classes, voxel size (10 Å) and normalisation (none) are those of the "
        "published training script; the file itself does not state them.",
    )
    return Model(card, state)


def _name_of(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "checkpoint"


def _state_of(content: Any) -> dict[str, Tensor]:
    import torch

    if not isinstance(content, Mapping):
        return {}
    for key in ("state_dict", "model_state_dict"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}


def _settings_of(content: Mapping[str, Any]) -> str:
    stated = {"epoch": content.get("epoch"), **_plain(content.get("hyper_parameters", {}))}
    simple = {k: v for k, v in stated.items() if isinstance(v, str | int | float)}
    return ", ".join(f"{key}={value}" for key, value in simple.items()) or "nothing"


def _plain(settings: Any) -> dict[str, Any]:
    """Settings as a flat dict, also when they were held by OmegaConf objects."""
    if not isinstance(settings, Mapping):
        return {}
    entries = settings.get("_content", settings)
    if not isinstance(entries, Mapping):
        return {}
    return {
        str(key): value.get("_val") if isinstance(value, StandIn) else value
        for key, value in entries.items()
    }


class StandIn(dict[Any, Any]):
    """What a foreign object of a checkpoint becomes: a dict of its items and its state."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> StandIn:
        """Take any arguments and ignore them."""
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        super().__init__()

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)  # foreign objects may be keys

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and state and isinstance(state[0], dict):
            state = state[0]
        if isinstance(state, dict):
            self.update(state)

    def append(self, item: Any) -> None:
        """Keep an item of a foreign list."""
        self[len(self)] = item

    def extend(self, items: Any) -> None:
        """Keep items of a foreign list."""
        for item in items:
            self.append(item)

    add = append


class _Storage(NamedTuple):
    dtype: torch.dtype
    key: str
    size: int


class _Archive:
    """The pickle and the storages of one checkpoint."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        pickles = [name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise zipfile.BadZipFile("no data.pkl")
        self.folder = pickles[0].removesuffix("data.pkl")
        self.storages: dict[str, Tensor] = {}

    def load(self) -> Any:
        if f"{self.folder}byteorder" in self.archive.namelist():
            order = self._record("byteorder", 16)
            if order != b"little":
                raise ValueError("its numbers are not little-endian")
        return _Unpickler(io.BytesIO(self._record("data.pkl", _LARGEST_PICKLE)), self).load()

    def tensor(
        self, storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
    ) -> Tensor:
        """Make a tensor from its description, which must stay inside its storage."""
        numbers = self._numbers(storage)
        sound = (
            len(shape) == len(stride)
            and all(type(n) is int and n >= 0 for n in (offset, *shape, *stride))
            and (
                prod(shape) == 0
                or offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
                < len(numbers)
            )
            and prod(shape) <= len(numbers)
        )
        if not sound:
            raise ValueError(f"a tensor of shape {shape} leaves its storage")
        return numbers.as_strided(shape, stride, offset).clone()

    def _numbers(self, storage: _Storage) -> Tensor:
        import torch

        if storage.key not in self.storages:
            if not re.fullmatch(r"\d+", storage.key):
                raise ValueError(f"bad storage {storage.key!r}")
            size = storage.size * storage.dtype.itemsize
            content = bytearray(self._record(f"data/{storage.key}", size))
            if len(content) != size:
                raise ValueError(f"storage {storage.key} is cut short")
            self.storages[storage.key] = (
                torch.frombuffer(content, dtype=storage.dtype)
                if size
                else torch.empty(0, dtype=storage.dtype)
            )
        return self.storages[storage.key]

    def _record(self, name: str, largest: int) -> bytes:
        info = self.archive.getinfo(self.folder + name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > largest:
            raise ValueError(f"record {name} is packed or larger than it says")
        return self.archive.read(info)


# The reader in C takes as much memory as a pickle asks for; the one in Python, what it holds.
class _Unpickler(pickle._Unpickler):
    """Interpreter of the pickle that knows tensors and nothing else."""

    def __init__(self, file: Any, archive: _Archive) -> None:
        super().__init__(file)
        self.archive = archive

    def find_class(self, module: str, name: str) -> Any:
        import torch

        if module == "torch._utils":
            if name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
                return self._rebuild_tensor
            if name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
                return self._rebuild_parameter
        if module == "torch" and name in _STORAGES:
            return getattr(torch, _STORAGES[name])
        # A class of its own for each name: nothing a pickle does to it outlives this reading.
        return type(name.rpartition(".")[2], (StandIn,), {})

    def persistent_load(self, pid: Any) -> _Storage:
        import torch

        kind, dtype, key, _device, size = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ValueError("it holds a storage of an unknown type")
        if not isinstance(key, str) or type(size) is not int or size < 0:
            raise ValueError("it describes a storage wrongly")
        return _Storage(dtype, key, size)

    def _rebuild_tensor(
        self, storage: Any, offset: int, shape: Any, stride: Any, *_flags: Any
    ) -> Tensor:
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor has no storage")
        return self.archive.tensor(storage, offset, tuple(shape), tuple(stride))

    def _rebuild_parameter(self, tensor: Any, *_flags: Any) -> Any:
        return tensor
