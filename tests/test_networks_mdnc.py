import copy
import json
import pickle
from pathlib import Path

import pytest
import reference
import torch
from safetensors import safe_open

from napari_vox3d import networks
from napari_vox3d.errors import ModelError
from napari_vox3d.networks import mdnc

VECTORS = sorted((Path(__file__).parent / "data" / "vectors").glob("mdnc_*.safetensors"))
AXES = (1, 2, 3)
HOURGLASSES = ("UNet", "AE")


def read(path):
    with safe_open(path, "pt") as file:
        parts = {"state": {}, "in": {}, "out": {}}
        for key in file.keys():  # noqa: SIM118 (not a mapping)
            part, name = key.split("/", 1)
            parts[part][name] = file.get_tensor(key)
        return json.loads(file.metadata()["config"]), parts


def make(family, dim, *args, **kwargs):
    torch.manual_seed(0)
    return getattr(mdnc, f"{family}{dim}d")(*args, **kwargs)


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def large(out_length):
    with torch.device("meta"):
        return mdnc.EncoderNet3d(channel=64, layers=[3] * 5, in_planes=3, out_length=out_length)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_reference_vector(path):
    config, parts = read(path)
    module = reference.build(config, parts["state"])
    (y,) = reference.run(module, config, parts["in"])
    torch.testing.assert_close(y, parts["out"]["y"], rtol=0, atol=1e-5)
    assert count(module) == config["n_params"]
    assert config["nlayers"] == getattr(module, "nlayers", None)


def test_vectors_are_there():
    assert len(VECTORS) == 10


@pytest.mark.parametrize(
    ("out_length", "parameters"),
    [(32, 122_719_328), (2, 122_688_578), (None, 122_686_528), (0, 122_686_528), (-1, 122_686_528)],
)
def test_number_of_parameters(out_length, parameters):
    network = large(out_length)
    assert count(network) == parameters
    assert network.netbody[0].weight.numel() == 24_000
    assert network.netbody[0].bias is None
    assert network.nlayers == 17
    assert (network.fc is None) == (parameters == 122_686_528)


def test_sizes_and_channels_along_the_encoder():
    network = large(None)
    seen = []
    for stage in network.netbody[:-1]:
        stage.register_forward_hook(lambda stage, x, y: seen.append(tuple(y.shape[1:])))
    y = network(torch.empty(2, 3, 31, 32, 30, device="meta"))
    assert seen == [
        (64, 31, 32, 30),
        (64, 16, 16, 15),
        (128, 8, 8, 8),
        (256, 4, 4, 4),
        (512, 2, 2, 2),
        (1024, 1, 1, 1),
    ]
    assert y.shape == (2, 1024, 1, 1, 1)


def test_default_output_length():
    with torch.no_grad():
        assert make("EncoderNet", 3, 2, [1, 1])(noise(3, 1, 7, 6, 5)).shape == (3, 2)


@pytest.mark.parametrize("out_length", [None, 0, -1])
def test_encoder_without_vector_gives_the_map(out_length):
    with torch.no_grad():
        y = make("EncoderNet", 2, 3, [1, 2, 1], out_length=out_length)(noise(1, 1, 17, 12))
    assert y.shape == (1, 12, 3, 2)


@pytest.mark.parametrize(
    ("kernel_size", "size"),
    [(3, (2, 3, 2)), ((1, 3, 5), (7, 3, 2)), (1, (7, 11, 8)), (2, (4, 5, 4))],
)
def test_kernel_decides_which_axes_are_halved(kernel_size, size):
    network = make("EncoderNet", 3, 2, [1, 1], kernel_size, out_length=None)
    with torch.no_grad():
        assert network(noise(1, 1, 7, 11, 8)).shape[2:] == size


def test_encoder_ignores_offset_and_scale():
    network = make("EncoderNet", 3, 4, [2, 1], kernel_size=1, out_length=3)
    x = noise(2, 1, 5, 6, 7)
    with torch.no_grad():
        torch.testing.assert_close(network(3 * x + 40), network(x), rtol=1e-3, atol=1e-3)


def test_encoder_classifies_after_a_few_steps():
    network = make("EncoderNet", 3, 4, [1, 1], out_length=2)
    x = noise(6, 1, 8, 8, 8)
    x[::2] = torch.nn.functional.avg_pool3d(x[::2], 3, 1, 1)  # smooth against rough
    truth = torch.tensor([0, 1] * 3)
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    losses = []
    for _ in range(15):
        losses.append(torch.nn.functional.cross_entropy(network(x), truth))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("dim", AXES)
@pytest.mark.parametrize("family", HOURGLASSES)
@pytest.mark.parametrize("layers", [[1, 1], [2, 1, 3], [1, 2, 1, 1]])
def test_output_is_as_large_as_the_input(family, dim, layers):
    network = make(family, dim, 2, layers, in_planes=2, out_planes=3)
    for shape in ((9, 13, 10), (11, 16, 7)):
        x = noise(1, 2, *shape[:dim])
        with torch.no_grad():
            assert network(x).shape == (1, 3, *shape[:dim])


@pytest.mark.parametrize("family", HOURGLASSES)
def test_even_kernels_are_taken(family):
    with torch.no_grad():
        y = make(family, 2, 2, [1, 2, 1], kernel_size=4)(noise(1, 1, 13, 10))
    assert all(ours >= size for ours, size in zip(y.shape[2:], (13, 10), strict=True))


@pytest.mark.parametrize(("family", "parameters"), [("UNet", 219), ("AE", 183)])
def test_stages_of_one_layer(family, parameters):
    # Counted by hand from the widths 2, 2, 4: a skip is as wide as what enters its stage.
    network = make(family, 1, 2, [1, 1, 1])
    assert count(network) == parameters
    with torch.no_grad():
        assert network(noise(1, 1, 12)).shape == (1, 1, 12)
    skip = network.conv_up_list[0].conv_scale.mconv[0].num_features
    assert skip == (4 + 2 if family == "UNet" else 4)


def test_skips_carry_detail_that_an_autoencoder_loses():
    unet, autoencoder = (make(family, 2, 2, [1, 1, 1]) for family in HOURGLASSES)
    for network in (unet, autoencoder):
        with torch.no_grad():
            network.conv_middle_up.conv_scale.mconv[-1].weight.zero_()
            y = network(noise(1, 1, 16, 16))
        inside = y[..., 8:9, 8:9]
        varies = bool((y[..., 6:10, 6:10] - inside).abs().max() > 1e-4)
        assert varies == (network is unet)


@pytest.mark.parametrize("dim", AXES)
@pytest.mark.parametrize("in_length", [4, None, 0])
def test_decoder_reaches_its_size(dim, in_length):
    network = make("DecoderNet", dim, 2, [1, 2], (9, 12, 7)[:dim], in_length=in_length)
    smallest = (3, 3, 2)[:dim]
    assert network.input_size == ((4,) if in_length else (4, *smallest))
    assert network.nlayers == (6 if in_length else 5)
    with torch.no_grad():
        assert network(noise(2, *network.input_size)).shape == (2, 1, *(9, 12, 7)[:dim])


def test_decoder_takes_one_size_for_all_axes():
    network = make("DecoderNet", 3, 2, [1, 1], 6, kernel_size=(1, 3, 3), in_length=None)
    assert network.input_size == (4, 6, 2, 2)


@pytest.mark.parametrize(
    ("family", "arguments"),
    [
        ("EncoderNet", {"layers": [2, 1], "out_length": 3}),
        ("UNet", {"layers": [1, 2, 2]}),
        ("UNet", {"layers": [2, 1, 1]}),
        ("AE", {"layers": [2, 1, 2]}),
        ("DecoderNet", {"layers": [1, 2], "out_size": (7, 6, 5)}),
    ],
)
def test_gradient_reaches_every_parameter(family, arguments):
    network = make(family, 3, 2, **arguments)
    x = noise(2, *network.input_size) if family == "DecoderNet" else noise(2, 1, 9, 8, 7)
    network(x).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("normalizer", "activator", "order", "kinds"),
    [
        ("pinst", "prelu", "new", ["InstanceNorm2d", "PReLU", "Conv2d"]),
        ("inst", "relu", "old", ["Conv2d", "InstanceNorm2d", "ReLU"]),
        ("batch", "none", "new", ["BatchNorm2d", "Conv2d"]),
        ("null", "prelu", "new", ["Conv2d", "PReLU"]),
        ("null", "null", "old", ["Conv2d"]),
    ],
)
def test_modern_layer_order(normalizer, activator, order, kinds):
    layer = mdnc.ConvModern2d(
        2, 3, normalizer=normalizer, activator=activator, layer_order=order
    ).mconv
    assert [type(part).__name__ for part in layer] == kinds
    convolution = layer[kinds.index("Conv2d")]
    assert (convolution.bias is not None) == (normalizer == "null")
    norms = [part for part in layer if "Norm" in type(part).__name__]
    assert all(norm.affine == (normalizer != "inst") for norm in norms)
    assert all(norm.num_features == (2 if order == "new" else 3) for norm in norms)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"stride": 2}, (5, 5, 4)),
        ({"stride": (1, 2, 3)}, (9, 5, 3)),
        ({"stride": 2, "scaler": "up"}, (18, 20, 14)),
        ({"stride": (1, 1, 2), "scaler": "up"}, (9, 10, 14)),
        ({"stride": 1, "scaler": "up"}, (9, 10, 7)),
        ({"output_size": (11, 5, 8), "scaler": "up"}, (11, 5, 8)),
        ({"output_size": 6, "stride": 3, "scaler": "up"}, (6, 6, 6)),
        ({"output_size": 6, "stride": 2}, (5, 5, 4)),
        ({"padding": 0, "kernel_size": (1, 3, 5)}, (9, 8, 3)),
    ],
)
def test_modern_layer_scales(options, shape):
    with torch.no_grad():
        assert mdnc.ConvModern3d(2, 3, **options)(noise(1, 2, 9, 10, 7)).shape == (1, 3, *shape)


def test_scaling_up_keeps_the_corners():
    layer = mdnc.ConvModern1d(1, 1, 1, 3, 0, normalizer="null", activator="null", scaler="up")
    with torch.no_grad():
        layer.mconv[-1].weight.fill_(1)
        layer.mconv[-1].bias.zero_()
        y = layer(torch.tensor([[[0.0, 4.0, 8.0]]]))
    torch.testing.assert_close(y[0, 0], torch.arange(9.0))


@pytest.mark.parametrize("option", ["normalizer", "layer_order", "scaler"])
def test_modern_layer_refuses_unknown_choices(option):
    with pytest.raises(ValueError, match=f"{option} must be one of .* not 'best'"):
        mdnc.ConvModern3d(1, 1, **{option: "best"})


@pytest.mark.parametrize("family", ["EncoderNet", "UNet", "AE", "DecoderNet"])
@pytest.mark.parametrize("layers", [[], [3], [2, 0], [0, 2]])
def test_layers_are_checked(family, layers):
    more = {"out_size": 8} if family == "DecoderNet" else {}
    with pytest.raises(ValueError, match="layers needs at least two numbers"):
        make(family, 3, 2, layers, **more)


@pytest.mark.parametrize("family", ["EncoderNet", "UNet", "AE"])
def test_kernel_size_is_checked(family):
    with pytest.raises(ValueError, match="kernel_size needs one number or 3"):
        make(family, 3, 2, [1, 1], kernel_size=(3, 3))


def test_fractional_output_length_is_refused():
    with pytest.raises(TypeError):
        make("EncoderNet", 3, 2, [1, 1], out_length=2.5)


@pytest.mark.parametrize("family", ["EncoderNet", "UNet", "AE"])
@pytest.mark.parametrize("shape", [(1, 3, 8, 8, 8), (2, 8, 8, 8), (1, 2, 8, 8)])
def test_shape_of_the_input_is_checked(family, shape):
    with pytest.raises(ValueError, match=rf"{family}3d takes tensors of shape \(B, 2, D, H, W\)"):
        make(family, 3, 2, [1, 1], in_planes=2)(noise(*shape))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("family", "layers", "fits", "stage"),
    [("EncoderNet", [1, 1, 1], 5, 3), ("UNet", [1, 2, 1], 5, 3), ("AE", [2, 1], 3, 2)],
)
def test_an_input_that_shrinks_to_one_voxel_is_refused(family, layers, fits, stage, training):
    network = make(family, 3, 2, layers).train(training)
    with torch.no_grad():
        network(noise(1, 1, 1, fits, 1))
        with pytest.raises(ValueError, match=f"one voxel before stage {stage}") as caught:
            network(noise(1, 1, 1, fits - 1, 1))
    assert f"1×{fits - 1}×1 voxels is too small for {family}3d" in str(caught.value)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5])
def test_what_is_not_refused_runs(length, kernel_size):
    for family in ("EncoderNet", "UNet", "AE"):
        network = make(family, 1, 2, [2, 1, 2], kernel_size)
        try:
            with torch.no_grad():
                y = network(noise(1, 1, length))
        except ValueError as error:
            assert "too small for" in str(error)  # noqa: PT017 (either outcome is right)
        else:
            assert y.isfinite().all()


@pytest.mark.parametrize(
    ("out_size", "message"),
    [
        ((8, 8), "out_size needs one number or 3"),
        ((9, 1, 9), "9×1×9 is too small to be halved 2 times"),
        (1, "1×1×1 is too small to be halved 2 times"),
        ((4, 3, 3), "4×3×3 is too small for .*single voxel"),
    ],
)
def test_size_of_a_decoder_is_checked(out_size, message):
    with pytest.raises(ValueError, match=message):
        make("DecoderNet", 3, 2, [1, 1], out_size)


@pytest.mark.parametrize("in_length", [5, None])
def test_input_of_a_decoder_is_checked(in_length):
    network = make("DecoderNet", 2, 2, [1, 1], 8, in_length=in_length)
    shape = r"\(B, 5\)" if in_length else r"\(B, 4, 2, 2\)"
    with pytest.raises(ValueError, match=f"takes tensors of shape {shape}, not"):
        network(noise(1, 3))


def test_networks_are_built_by_name():
    network = networks.build("UNet3d", channel=2, layers=[1, 1], out_planes=4)
    assert type(network) is mdnc.UNet3d
    with pytest.raises(ModelError, match="layers needs at least two numbers"):
        networks.build("EncoderNet3d", channel=2, layers=[1])


@pytest.mark.parametrize("dim", AXES)
@pytest.mark.parametrize("family", ["EncoderNet", "UNet", "AE", "ConvModern"])
def test_networks_can_be_copied_and_pickled(family, dim):
    network = make(family, dim, 1, 3 if family == "ConvModern" else [1, 1])
    x = noise(1, 1, *[6] * dim)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert repr(twin).startswith(f"{family}{dim}d(")
        with torch.no_grad():
            assert torch.equal(twin(x), network(x))


@pytest.mark.parametrize(
    "network",
    [
        lambda: make("EncoderNet", 3, 2, [1, 2], out_length=3),
        lambda: make("EncoderNet", 3, 2, [1, 2], out_length=None),
        lambda: make("UNet", 3, 2, [1, 2, 1]),
        lambda: make("AE", 3, 2, [1, 1]),
    ],
    ids=["EncoderNet3d", "EncoderNet3d map", "UNet3d", "AE3d"],
)
def test_networks_can_be_exported(network):
    module, x = network().eval(), noise(1, 1, 9, 8, 7)
    exported = torch.export.export(module, (x,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(x), module(x))
