from itertools import pairwise

import torch

from napari_vox3d.training.glimpses import Glimpses
from napari_vox3d.training.loop import TrainingLoop


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def looks_in(seconds, lasting):
    """When a training of steps of half a second is looked into, each look lasting some seconds."""
    clock, looks, steps = Clock(), [], []

    def look():
        looks.append(clock.now)
        clock.now += lasting

    glimpses = Glimpses(look, lambda *step: steps.append(step), clock)
    while clock.now < seconds:
        clock.now += 0.5
        glimpses(len(steps) + 1, 0.1)
    return looks, steps


def test_looks_come_soon_and_then_every_twelve_seconds():
    looks, steps = looks_in(60, lasting=1)
    assert looks[0] <= 5
    assert all(12 <= b - a <= 15 for a, b in pairwise(looks))
    assert [step for step, _ in steps] == list(range(1, len(steps) + 1))


def test_long_looks_take_less_than_a_fifth_of_the_time():
    looks, _ = looks_in(600, lasting=10)
    assert len(looks) > 5
    assert 10 * len(looks) < 0.2 * 600


def rates_after_a_stop(steps, stop_at, seconds=1.0):
    """Rates of a training with a constant one, asked to stop after some steps."""
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0)
    clock, rates = Clock(), []
    loop = TrainingLoop(
        network, optimizer, lambda _: 1.0, rate=1.0, minutes=None, steps=steps, seed=0,
        checkpoint=None, progress=None, on_step=None, stop=lambda: len(rates) == stop_at,
        clock=clock,
    )  # fmt: skip
    with loop:
        for _ in loop:
            rates.append(optimizer.param_groups[0]["lr"])
            clock.now += seconds
            loop.report(0.0)
    return rates


def test_the_rate_falls_to_zero_after_a_stop():
    rates = rates_after_a_stop(1000, stop_at=50)
    assert rates[:50] == [1.0] * 50
    assert len(rates) == 55  # a tenth of the steps
    assert all(b < a for a, b in pairwise(rates[50:]))
    assert rates[-1] <= 0.25


def test_a_stop_takes_no_longer_than_fifteen_seconds():
    assert len(rates_after_a_stop(10_000, stop_at=1000)) == 1015


def test_a_short_training_stops_at_once_and_none_goes_beyond_its_end():
    assert len(rates_after_a_stop(1000, stop_at=3)) == 3
    assert len(rates_after_a_stop(52, stop_at=50)) == 52
