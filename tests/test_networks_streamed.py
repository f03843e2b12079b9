"""Activations in files give what activations in memory give."""

import pytest
import torch

from napari_vox3d.errors import Cancelled
from napari_vox3d.networks import ELFPredictor, streamed

NETWORKS = {
    "everything": {"in_ch": 2, "base": 8, "blocks": 3, "attention_every": 2, "error_head": True},
    "attention after each block": {"base": 4, "blocks": 2, "kernel": 3, "attention_every": 1},
    "kernels of one voxel": {"base": 8, "blocks": 2, "kernel": 1, "attention_every": 0},
    "residual": {"in_ch": 6, "base": 16, "blocks": 1, "kernel": 3, "residual": 5},
    "no blocks": {"base": 8, "blocks": 0},
}


@pytest.mark.parametrize("shape", [(7, 5, 9), (1, 6, 3), (2, 1, 1)])
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_result_is_that_of_the_plain_pass(tmp_path, kind, shape):
    torch.manual_seed(0)
    network = ELFPredictor(**NETWORKS[kind])
    with torch.no_grad():  # as if it had been trained
        for name, weight in network.named_parameters():
            if weight.ndim == 1 and "eta" not in name:
                weight += 0.3 * torch.randn_like(weight)
        sad = torch.rand(1, network.net.stem[0].in_channels, *shape)
        main, aux = network(sad)
    for planes in (1, 2, 3, 10):
        calls = []
        elf, error = streamed.stream(
            network, sad, planes, tmp_path, lambda *a, calls=calls: calls.append(a)
        )
        torch.testing.assert_close(elf, main, atol=2e-5, rtol=0)
        assert (error is None) == (not aux)
        if aux:
            torch.testing.assert_close(error, aux[0], atol=2e-5, rtol=1e-4)
        dones, totals = zip(*calls, strict=True)
        assert list(dones) == list(range(1, totals[0] + 1))
        assert set(totals) == {len(calls)}
    assert not list(tmp_path.iterdir())


def test_half_precision_and_values_far_from_zero(tmp_path):
    torch.manual_seed(0)
    network = ELFPredictor(base=8, blocks=2, kernel=3, attention_every=2)
    sad = 1000 + torch.rand(1, 1, 6, 5, 4)
    plain = network.predict_elf(sad)
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = streamed.stream(network, sad, 2, tmp_path)
    full, _ = streamed.stream(network, sad, 2, tmp_path)
    assert half.dtype == full.dtype == torch.float32
    assert float((full - plain).abs().max()) < 0.01  # the stem's input differs in its last digits
    sad -= 1000
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = streamed.stream(network, sad, 2, tmp_path)
    assert float((half - network.predict_elf(sad)).abs().max()) < 0.05


def test_nothing_stays_behind_when_it_is_cancelled(tmp_path):
    def cancel(done, total):
        if done == 3:
            raise Cancelled("stop")

    network = ELFPredictor(base=4, blocks=1, kernel=3)
    with pytest.raises(Cancelled):
        streamed.stream(network, torch.rand(1, 1, 4, 4, 4), 1, tmp_path, cancel)
    assert not list(tmp_path.iterdir())


def test_thin_slabs_take_far_less_memory_than_activations():
    net = ELFPredictor().net
    shape = (256, 256, 256)
    assert streamed.stream_bytes(net, shape, 1) < 0.15 * net.peak_bytes(shape, 1)
    assert streamed.stream_bytes(net, shape, 1) < streamed.stream_bytes(net, shape, 8)
    assert streamed.stream_files(net, shape) == 3 * 4 * 32 * 256**3
