"""`TrainingLoop`: steps, time, rate, checkpoints and reports, which all trainings share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from napari_vox3d.progress import Progress
from napari_vox3d.training.checkpoints import resume_checkpoint, save_checkpoint
from napari_vox3d.training.distributed import Ranks, kept_to_oneself

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

_SAVE_EVERY = 15.0  # seconds
_LANDING, _LONGEST_LANDING = 0.1, 15.0  # of the steps done, and seconds


class TrainingLoop:
    """Goes round until the steps or the time are used up; on leaving, the checkpoint is written.

    ::

        with TrainingLoop(...) as loop:
            for share in loop:
                loop.descend(lambda: loss_of(loop.parallel))
                loop.report(figure)

    Parameters
    ----------
    network, optimizer
        What is trained, and how; both go on from the checkpoint.
    schedule
        Gives the rate of learning over `rate` for the share of the training that is done.
    rate
        Highest rate of learning.
    minutes, steps
        How long to train, whichever ends first; None does not count.
    seed
        Of the training; a checkpoint of another one is refused.
    checkpoint
        File to go on from, if it exists, and to write every fifteen seconds.
    progress
        Called with the steps done and the expected total; may raise `Cancelled`.
    on_step
        Called with the number of the step, from 1, and its figure.
    stop
        Asked before each step; True ends the training soon: in a tenth of the steps done so
        far, and at most fifteen seconds, the rate falls to zero, because a network that is left
        in the midst of learning is worse than one that may settle.
    clock
        Gives the seconds that `minutes` are counted in.
    ranks
        The processes that train together; the first one sets the pace, writes and reports.
    half
        Whether gradients are of float16 and need to be scaled.

    Attributes
    ----------
    done
        Steps done, those before an interruption included.
    parallel
        The network, averaging its gradients over the processes.

    Raises
    ------
    ModelError
        If the checkpoint belongs to another training.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        schedule: Callable[[float], float],
        *,
        rate: float,
        minutes: float | None,
        steps: int | None,
        seed: int,
        checkpoint: str | Path | None,
        progress: Progress | None,
        on_step: Callable[[int, float], None] | None,
        stop: Callable[[], bool] | None,
        clock: Callable[[], float] = time.monotonic,
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
        half: bool = False,
    ) -> None:
        self._network, self._optimizer = network, optimizer
        self._schedule, self._rate = schedule, rate
        self._minutes, self._steps, self._clock = minutes, steps, clock
        self._seed, self._checkpoint = seed, checkpoint
        self._progress, self._on_step, self._stop = progress, on_step, stop
        self._ranks, self._place = ranks, next(network.parameters()).device
        self._scaler = torch.amp.GradScaler(self._place.type, enabled=half)
        self.parallel = ranks.spread(network)
        self.done, spent = resume_checkpoint(checkpoint, network, optimizer, seed)
        self._saved = clock()
        self._began = self._saved - spent
        self._stopped: tuple[int, float] | None = None  # the step, and when
        self._rest = 1.0

    def __enter__(self) -> TrainingLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self._save()

    def __iter__(self) -> Iterator[float]:
        """Share of the training that is done, before each step; the rate is set."""
        while (share := self._agreed_share()) < 1:
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate * self._schedule(share) * self._rest
            yield share

    def descend(self, *losses: Callable[[], Tensor]) -> None:
        """Make a step along the sum of some losses, the gradient being no longer than 1.

        Parameters
        ----------
        *losses
            Each computes a loss from the network; only one of them is in memory at a time.
        """
        self._optimizer.zero_grad()
        for number, loss in enumerate(losses, 1):
            last = number == len(losses)
            with nullcontext() if last else kept_to_oneself(self.parallel):
                self._scaler.scale(loss()).backward()
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def report(self, figure: float) -> None:
        """Count the step, and tell of it."""
        self.done += 1
        if not self._ranks.first:
            return
        if self._on_step is not None:
            self._on_step(self.done, figure)
        if self._progress is not None:
            self._progress(self.done, max(self.done, round(self.done / self._share())))
        if self._clock() - self._saved > _SAVE_EVERY:
            self._save()

    def _agreed_share(self) -> float:
        if self._stopped is None and self._stop is not None and self._ranks.first and self._stop():
            self._stopped = self.done, self._clock()
        self._rest = self._ranks.agree(self._rest_after_stop(), self._place)
        return self._ranks.agree(self._share() if self._rest else 1.0, self._place)

    def _rest_after_stop(self) -> float:
        """Share that is left of the steps and the time between a stop and the end."""
        if self._stopped is None:
            return 1.0
        steps, seconds = self.done - self._stopped[0], self._clock() - self._stopped[1]
        over = steps / max(1, _LANDING * self._stopped[0]), seconds / _LONGEST_LANDING
        return max(0.0, 1 - max(over)) if _LANDING * self._stopped[0] >= 1 else 0.0

    def _share(self) -> float:
        by_steps = 1.0 if self._steps == 0 else self.done / self._steps if self._steps else 0.0
        spent = self._clock() - self._began
        return max(by_steps, spent / (60 * self._minutes) if self._minutes else 0.0)

    def _save(self) -> None:
        if self._checkpoint is None or not self._ranks.first:
            return
        self._saved = self._clock()
        save_checkpoint(
            self._checkpoint,
            self._network,
            self._optimizer,
            self._seed,
            self.done,
            self._saved - self._began,
        )
