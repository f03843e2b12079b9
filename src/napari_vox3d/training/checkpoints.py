"""State of an unfinished training in a safetensors file, from which it can go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_vox3d.errors import ModelError
from napari_vox3d.formats import write_aside

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


def save_checkpoint(
    path: str | Path,
    network: nn.Module,
    optimizer: Optimizer,
    seed: int,
    steps: int,
    seconds: float,
) -> None:
    """Write parameters, moments of the optimiser, and how far the training has come.

    Raises
    ------
    FormatError
        If the file cannot be written.
    """
    from safetensors.torch import save

    tensors = {f"model.{key}": value for key, value in network.state_dict().items()}
    for key, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{key}.{name}": value for name, value in moments.items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    state = {"seed": str(seed), "steps": str(steps), "seconds": str(seconds)}
    with write_aside(path) as aside:
        aside.write_bytes(save(tensors, metadata=state))  # which fails as all writing does


def resume_checkpoint(
    path: str | Path | None, network: nn.Module, optimizer: Optimizer, seed: int
) -> tuple[int, float]:
    """Put a state of `save_checkpoint` back, if there is one.

    Returns
    -------
    steps, seconds
        Spent so far; zeros where `path` is None or no file is there.

    Raises
    ------
    ModelError
        If the file is no checkpoint, or one of another network or seed.
    """
    from safetensors import SafetensorError, safe_open

    if path is None or not Path(path).exists():
        return 0, 0.0
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if about["seed"] != str(seed):
            raise ModelError(f"{path}: belongs to a training with seed {about['seed']}.")
        network.load_state_dict(
            {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        )
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        return int(about["steps"]), float(about["seconds"])
    except (SafetensorError, KeyError, ValueError, RuntimeError, OSError) as error:
        raise ModelError(
            f"{path}: is not a checkpoint of this training. Remove it to start anew."
        ) from error
