import pytest
import torch

from napari_vox3d import networks
from napari_vox3d.models.model import restore
from napari_vox3d.networks.cryoet_cnn import CryoET3DCNN, DenseCryoET3DCNN, factor

PLAIN_KEYS = [f"{part}.{n}.{what}"
              for part, n in (("features", 0), ("features", 3), ("features", 6),
                              ("classifier", 0), ("classifier", 3))
              for what in ("weight", "bias")]  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return CryoET3DCNN().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def factored():
    torch.manual_seed(1)
    return DenseCryoET3DCNN(6, rank=5).eval().requires_grad_(False)


def largest(difference):
    return float(difference.detach().abs().max())


def test_is_the_specified_network(network):
    assert sum(p.numel() for p in network.parameters()) == 33_835_590
    assert list(network.state_dict()) == PLAIN_KEYS
    assert network(torch.randn(2, 1, 64, 64, 64)).shape == (2, 6)
    assert isinstance(networks.build("CryoET3DCNN", num_classes=3), CryoET3DCNN)


def test_convolutions_start_from_kaiming_fan_out(network):
    for layer, channels in ((0, 32), (3, 64), (6, 128)):
        expected = (2 / (27 * channels)) ** 0.5
        assert float(network.features[layer].weight.std()) == pytest.approx(expected, rel=0.1)
        assert not network.features[layer].bias.any()


def test_batch_norm_is_added_only_when_asked_for():
    normed = CryoET3DCNN(2, batch_norm=True)
    assert sum(isinstance(m, torch.nn.BatchNorm3d) for m in normed.modules()) == 3
    assert normed(torch.randn(2, 1, 64, 64, 64)).shape == (2, 2)


@pytest.mark.parametrize("shape", [(1, 1, 64, 64, 65), (1, 2, 64, 64, 64), (1, 64, 64, 64)])
def test_windows_of_another_shape_are_refused(network, shape):
    with pytest.raises(ValueError, match="64, 64, 64"):
        network(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(56, 64, 64), (64, 64, 68)])
def test_volumes_that_do_not_fit_the_strides_are_refused(factored, shape):
    with pytest.raises(ValueError, match="multiples of 8"):
        factored(torch.zeros(1, 1, *shape))


@pytest.mark.parametrize("stride", [4, 8])
def test_dense_agrees_with_the_window_on_exactly_64(network, stride):
    window = torch.randn(1, 1, 64, 64, 64)
    dense = network.dense()(window, stride)
    assert dense.shape == (1, 6, 1, 1, 1)
    assert largest(dense.flatten(1) - network(window)) < 4e-5


def test_dense_differs_where_a_window_would_pad_with_zeros(network):
    volume = torch.randn(1, 1, 64, 64, 72)
    dense = network.dense()(volume)
    assert dense.shape[2:] == (1, 1, 2)
    assert largest(dense[..., 0].flatten(1) - network(volume[..., :64])) > 1e-3


def test_stride_4_adds_places_and_keeps_the_others(factored):
    volume = torch.randn(1, 1, 64, 72, 64)
    coarse, fine = factored(volume, 8), factored(volume, 4)
    assert fine.shape[2:] == (1, 3, 1)
    assert largest(fine[..., ::2, :] - coarse) < 1e-5


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("stride", [4, 8])
def test_features_are_those_of_the_plain_layers(stride, batch_norm):
    network = CryoET3DCNN(batch_norm=batch_norm)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_()
            module.weight.data.normal_()  # negative ones too
    dense = network.eval().dense()
    volume = torch.randn(2, 1, 64, 72, 80)
    plain = dense.extract(volume, stride)  # gradients may be asked for
    with torch.inference_mode():
        found = dense.extract(volume, stride)
    assert found.shape == plain.shape
    assert largest(found - plain) < 1e-5 * largest(plain)


def test_statistics_of_a_batch_are_those_of_all_planes():
    network = CryoET3DCNN(batch_norm=True)
    volume = torch.randn(1, 1, 64, 64, 64)
    expected = network.features(volume)
    with torch.no_grad():
        assert largest(network.dense().extract(volume) - expected) < 1e-5


def test_dense_form_uses_the_weights_of_its_network(network):
    dense = network.dense()
    assert dense.classifier[0].weight.data_ptr() == network.classifier[0].weight.data_ptr()
    assert dense.features is network.features


def test_factored_network_is_stored_small_and_restored_whole(factored):
    state = factored.windowed_state()
    assert sum(value.numel() for value in state.values()) < 700_000
    restored = CryoET3DCNN()
    shapes = {name: tuple(value.shape) for name, value in restored.state_dict().items()}
    restored.load_state_dict(restore(state, shapes))
    window = torch.randn(1, 1, 64, 64, 64)
    with torch.inference_mode():
        expected = factored(window).flatten(1)
        assert largest(restored.eval()(window) - expected) < 4e-5
        again = factor(restored, 16, exact=True)
        assert again.classifier[0][0].out_channels == 5
        assert largest(again(window).flatten(1) - expected) < 1e-4


def test_a_layer_of_full_rank_has_no_exact_factors(network):
    assert factor(network, 16, exact=True) is None
    assert factor(network, 4).classifier[0][0].out_channels == 4
