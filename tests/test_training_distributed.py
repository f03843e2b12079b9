import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from napari_vox3d.training.distributed import Ranks, joined_ranks, parted

SCRIPT = """
import sys
import torch
from safetensors.torch import save_file
from napari_vox3d.training.elf_examples import Example
from napari_vox3d.training.elf_fit import fit_elf

torch.set_num_threads(1)

def crystal(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda channels: torch.rand(channels, *shape, generator=generator)
    return Example(draw(2), draw(1), draw(1), 4 * torch.eye(3))

examples = [crystal(n, 5, 6, 6 + n) for n in range(5)]
seen = []
network, steps = fit_elf(
    examples, arguments={"backbone": "ckconv", "base": 8, "blocks": 1, "reach": 2.0}, steps=5,
    device="cpu", batch_voxels=int(sys.argv[2]), on_step=lambda *call: seen.append(call),
)
assert steps == 5
if seen:
    save_file(network.state_dict(), sys.argv[1])
"""


def test_two_processes_train_the_network_that_one_would(tmp_path):
    (tmp_path / "fit.py").write_text(SCRIPT)
    launch = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29613"]
    for name, before, voxels in (("one", [], 600), ("two", ["-m", *launch], 300)):
        command = [sys.executable, *before, tmp_path / "fit.py", tmp_path / name, str(voxels)]
        subprocess.run(command, check=True, capture_output=True, timeout=200)
    one, two = (load_file(tmp_path / name) for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_of_a_batch_count_as_much_as_in_one_process(count):
    weights = [0.5, 0.3, 0.2]
    own = [parted(weights, Ranks(number, count)) for number in range(count)]
    taken = sorted(part for parts in own for part in parts)
    assert taken == [(n, pytest.approx(count * weight)) for n, weight in enumerate(weights)]


def test_process_without_a_part_takes_one_that_does_not_count():
    assert parted([1.0], Ranks(1, 2)) == [(0, 0.0)]


def test_without_torchrun_there_is_one_process():
    with joined_ranks("cpu") as (ranks, place):
        assert (ranks, place) == (Ranks(0, 1), torch.device("cpu"))
        assert ranks.first
        assert ranks.agree(0.25, place) == 0.25
