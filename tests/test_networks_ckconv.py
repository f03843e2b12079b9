import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import reference
import torch
from safetensors import safe_open
from torch.nn import functional as F

from napari_vox3d import networks
from napari_vox3d.errors import ModelError
from napari_vox3d.networks.ckconv import (
    CartesianCKConv3d,
    CKConvND,
    ExponentialModulationND,
    FourierKernel,
    SirenKernel,
    coordinate_grid,
    fft_conv,
)

VECTORS = sorted((Path(__file__).parent / "data" / "vectors").glob("nv_*.safetensors"))
TRICLINIC = torch.tensor([[5.0, 0.3, 0.2], [-1.0, 4.2, 0.4], [0.6, -1.1, 4.8]])


def read(path):
    parts = {"state": {}, "in": {}, "out": {}}
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118 (not a mapping)
            part, name = key.split("/", 1)
            parts[part][name] = file.get_tensor(key)
        return json.loads(file.metadata()["config"]), parts


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(make, *args, **kwargs):
    torch.manual_seed(0)
    return make(*args, **kwargs)


def tolerance(config, expected):
    if "fn" in config:
        return 5e-5
    if config["cls"] == "CKConvND":
        return 5e-4 * expected.abs().max().item()
    return 1e-6


# --- reference numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_reference_vector(path):
    config, parts = read(path)
    module = reference.build(config, parts["state"])
    (y,) = reference.run(module, config, parts["in"])
    expected = parts["out"]["y"]
    assert y.dtype == expected.dtype
    torch.testing.assert_close(y, expected, rtol=0, atol=tolerance(config, expected))
    assert sum(p.numel() for p in module.parameters()) == config["n_params"]


@pytest.mark.parametrize(
    "path", [p for p in VECTORS if p.stem.startswith("nv_ckconv")], ids=lambda path: path.stem
)
def test_coordinates_and_kernel_of_the_reference(path):
    config, parts = read(path)
    module = reference.build(config, parts["state"])
    grid = parts["out"]["grid"]
    half_sizes = [(size + 1) // 2 for size in grid.shape[1:-1]]
    torch.testing.assert_close(coordinate_grid(half_sizes, module.samples), grid, rtol=0, atol=2e-7)
    with torch.no_grad():
        raw = module.kernel(grid)
    torch.testing.assert_close(raw, parts["out"]["kernel_raw"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["_blh", "_bhl_w_reshape", "_bhl_chunked"])
@pytest.mark.parametrize("kind", ["", "causal_", "circular_", "mixed_"])
def test_variants_of_the_original_functions_are_one(kind, layout):
    x, kernel, shortcut = noise(2, 5, 9), noise(1, 5, 4, seed=2), noise(5, seed=3)
    config = {"fn": f"{kind}fftconv1d_fp32{layout}", "periodic": [True]}
    inputs = {"x": x, "kernel": kernel, "shortcut": shortcut}
    if "chunked" not in layout:
        inputs |= {"x": x.movedim(1, -1), "kernel": kernel.movedim(1, -1)}
    (y,) = reference.run(reference.build(config, {}), config, inputs)
    padding = {"": "zero", "causal_": "causal"}.get(kind, "circular")
    expected = fft_conv(x, kernel, padding, shortcut)
    torch.testing.assert_close(y if "chunked" in layout else y.movedim(-1, 1), expected)


def test_long_causal_kernels_of_the_original_wrap():
    x, kernel, shortcut = noise(2, 3, 6), noise(2, 3, 11, seed=2), noise(3, seed=3)
    config = {"fn": "causal_fftconv1d_fp32_bhl"}
    inputs = {"x": x, "kernel": kernel, "shortcut": shortcut}
    (y,) = reference.run(reference.build(config, {}), config, inputs)
    wrapped = torch.fft.irfft(torch.fft.rfft(x, 12) * torch.fft.rfft(kernel, 12), 12)[..., :6]
    torch.testing.assert_close(y, wrapped + shortcut[:, None] * x)
    assert (y - fft_conv(x, kernel, "causal", shortcut)).abs().max() > 0.1


# --- window --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_window_is_one_at_the_centre_and_decays_as_documented(dims):
    window = ExponentialModulationND(dims, 4)
    centre, edge, corner = torch.zeros(dims), torch.eye(dims)[0], torch.ones(dims)
    points = torch.stack([centre, edge, corner, -corner])[None]
    at_centre, at_edge, at_corner, opposite = window(points, torch.ones(1, 4, 4))[0]
    rates = torch.linspace(2.3, 13.81, 4)
    torch.testing.assert_close(at_centre, torch.ones(4))
    torch.testing.assert_close(at_edge, torch.exp(-rates / dims))
    torch.testing.assert_close(at_corner, torch.exp(-rates))
    torch.testing.assert_close(opposite, at_corner)
    assert at_corner[0].item() == pytest.approx(0.1, rel=0.01)
    assert at_corner[-1].item() == pytest.approx(1e-6, rel=0.01)


def test_decay_rates_are_frozen_unless_learnable():
    frozen, learnable = (
        ExponentialModulationND(2, 3),
        ExponentialModulationND(2, 3, learnable=True),
    )
    assert not frozen.weight.requires_grad
    assert learnable.weight.requires_grad
    assert frozen.weight._no_weight_decay
    assert learnable.weight._no_weight_decay
    torch.testing.assert_close(frozen.weight.detach(), learnable.weight.detach())
    learnable(noise(1, 5, 5, 2), torch.ones(1, 5, 5, 3)).sum().backward()
    assert learnable.weight.grad.abs().min() > 0
    convolution = CKConvND(1, 3, mask_arguments={"learnable": True}, samples=8)
    assert convolution.mask.weight.requires_grad


def test_one_channel_takes_the_slow_rate():
    torch.testing.assert_close(
        ExponentialModulationND(2, 1).weight.detach(), torch.full((2, 1), 1.15)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_window_keeps_the_type_of_values_and_wants_float32_coordinates(dtype):
    window = ExponentialModulationND(1, 3)
    grid = coordinate_grid([4], [4])
    assert window(grid, torch.ones(1, 7, 3, dtype=dtype)).dtype == dtype
    with pytest.raises(AssertionError, match="float32"):
        window(grid.to(dtype), torch.ones(1, 7, 3))


def test_window_says_what_does_not_fit():
    window = ExponentialModulationND(2, 3)
    with pytest.raises(ValueError, match="does not fit"):
        window(torch.zeros(1, 5, 1), torch.ones(1, 5, 3))
    with pytest.raises(ValueError, match="does not fit"):
        window(torch.zeros(1, 5, 2), torch.ones(1, 5, 4))
    with pytest.raises(ValueError, match="axes and channels"):
        ExponentialModulationND(0, 3)
    assert "fast_decay_pct=13.81" in repr(window)


# --- coordinates and kernel networks -------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 4, 5, 9, 17])
def test_coordinates_keep_their_spacing_for_every_size(size):
    grid = coordinate_grid([size, 3], [5, 5])
    assert grid.shape == (1, 2 * size - 1, 5, 2)
    along = grid[0, :, 2, 0]
    torch.testing.assert_close(along.diff(), torch.full((2 * size - 2,), 0.25))
    assert along[size - 1].abs() < 1e-6
    assert along[-1] == (size - 1) / 4
    third = coordinate_grid([size], [4]).flatten()  # not exact: rounded as by the original
    longest = max(size, 4)
    assert set(third.tolist()) <= set(
        torch.linspace(-(longest - 1) / 3, (longest - 1) / 3, 2 * longest - 1).tolist()
    )


def test_siren_starts_as_specified():
    kernel = seeded(
        SirenKernel, 2, 16, mlp_hidden_dim=64, embedding_dim=48, num_layers=4, omega_0=5.0, gain=0.1
    )
    assert len(kernel.hidden_linears) == 3
    bounds = [(kernel.positional_embedding.linear, 2 * math.pi * 5 / 2)]
    bounds += [(layer, math.sqrt(6 / layer.in_features)) for layer in kernel.hidden_linears]
    bounds += [(kernel.out_linear, 0.1 * math.sqrt(6 / 64))]
    for layer, bound in bounds:
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert layer.bias.abs().max() == 0
    assert all(p._no_weight_decay for p in kernel.hidden_linears.parameters())
    assert not hasattr(kernel.out_linear.weight, "_no_weight_decay")
    assert SirenKernel(2, 4, use_bias=False).out_linear.bias is None
    with pytest.raises(ValueError, match="2 layers"):
        SirenKernel(2, 4, num_layers=1)


def test_fourier_features_start_as_specified():
    kernel = seeded(FourierKernel, 3, 4, embedding_dim=512, omega_0=2.0, nonlinear="SiLU")
    weight = kernel.positional_embedding.linear.weight
    assert weight.shape == (256, 3)
    assert weight.std().item() == pytest.approx(4 * math.pi, rel=0.1)
    assert kernel.positional_embedding.linear.bias.abs().max() == 0
    with pytest.raises(ValueError, match="even"):
        FourierKernel(3, 4, embedding_dim=7)
    with pytest.raises(ValueError, match="activation"):
        FourierKernel(3, 4, nonlinear="Sinus")


# --- FFT convolution -----------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(11,), (6, 9), (6, 7, 5)])
def test_zero_padding_equals_direct_summation(sizes):
    dims = len(sizes)
    for kernel_sizes in [(1, 3, 5)[:dims], (5, 3, 3)[:dims], tuple(2 * n - 1 for n in sizes)]:
        x, kernel = noise(2, 3, *sizes).double(), noise(1, 3, *kernel_sizes).double()
        direct = getattr(F, f"conv{dims}d")(
            x,
            kernel[0][:, None].flip(tuple(range(2, 2 + dims))),
            padding=[k // 2 for k in kernel_sizes],
            groups=3,
        )
        torch.testing.assert_close(fft_conv(x, kernel), direct)


@pytest.mark.parametrize("padding", ["zero", "circular", "causal"])
@pytest.mark.parametrize("taps", [1, 4, 5, 8, 11, 16])
def test_every_padding_equals_its_sum(padding, taps):
    n = 16 if padding == "circular" else 8
    x, kernel = noise(1, 1, n).double(), noise(1, 1, taps, seed=2).double()
    expected = torch.zeros(n, dtype=torch.float64)
    for i in range(n):
        for j in range(taps):
            source = {"zero": i - j + taps // 2, "causal": i - j}.get(padding)
            if padding == "circular":
                source = (i - j + (taps - 1) // 2) % n
            if 0 <= source < n:
                expected[i] += kernel[0, 0, j] * x[0, 0, source]
    torch.testing.assert_close(fft_conv(x, kernel, padding)[0, 0], expected)


def test_mixed_padding_follows_each_axis():
    x, kernel = noise(1, 2, 6, 7), noise(1, 2, 3, 5, seed=2)
    wrapped = F.pad(x, (0, 0, 1, 1), mode="circular")
    expected = fft_conv(wrapped, kernel)[:, :, 1:-1]
    torch.testing.assert_close(fft_conv(x, kernel, ["circular", "zero"]), expected)
    assert torch.equal(
        fft_conv(x, kernel, [" Circular", "CIRCULAR "]), fft_conv(x, kernel, "circular")
    )


def test_kernels_per_sample_shortcut_and_chunks():
    x, kernel, shortcut = noise(3, 5, 6, 7), noise(3, 5, 3, 4, seed=2), noise(5, seed=3)
    y = fft_conv(x, kernel, shortcut=shortcut)
    alone = fft_conv(x[1:2], kernel[1:2]) + shortcut[:, None, None] * x[1:2]
    torch.testing.assert_close(y[1:2], alone)
    torch.testing.assert_close(fft_conv(x, kernel, shortcut=shortcut, chunk=2), y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(dtype):
    x, kernel = noise(1, 2, 9, 8).to(dtype), noise(1, 2, 5, 5).to(dtype)
    shortcut = noise(2).to(dtype)
    y = fft_conv(x, kernel, "zero", shortcut)
    assert y.dtype == dtype
    exact = fft_conv(x.float(), kernel.float(), "zero", shortcut.float())
    torch.testing.assert_close(y.float(), exact, rtol=2e-2, atol=2e-2)


def test_gradients_of_the_fft_convolution():
    x = noise(2, 2, 4, 5).double().requires_grad_()
    kernel = noise(1, 2, 3, 3).double().requires_grad_()
    shortcut = noise(2).double().requires_grad_()
    for padding in ("zero", "circular", ["circular", "zero"]):
        assert torch.autograd.gradcheck(
            lambda *args, padding=padding: fft_conv(args[0], args[1], padding, args[2]),
            (x, kernel, shortcut),
        )


@pytest.mark.parametrize(
    ("padding", "word"),
    [
        ("circular, zero", "not 'circular, zero'"),
        ("reflect", "reflect"),
        ("causal", "causal"),
        (True, "True"),
        ((True, False), "True"),
        (["zero"], "length 2"),
        (["zero", "causal"], "causal"),
    ],
)
def test_unknown_padding_is_refused(padding, word):
    with pytest.raises(ValueError, match=word):
        fft_conv(noise(1, 2, 6, 6), noise(1, 2, 3, 3), padding)
    with pytest.raises(ValueError, match=word):
        CKConvND(2, 2, padding=padding)


@pytest.mark.parametrize(
    ("kernel", "padding"),
    [((1, 2, 13), "zero"), ((1, 2, 7), "circular"), ((1, 2, 13), "causal")],
)
def test_too_large_kernels_are_refused(kernel, padding):
    with pytest.raises(AssertionError, match="too large"):
        fft_conv(noise(1, 2, 6), noise(*kernel), padding)


@pytest.mark.parametrize("kernel", [(3, 2, 3), (1, 1, 3), (1, 2, 3, 3)])
def test_kernels_of_another_shape_are_refused(kernel):
    with pytest.raises(AssertionError, match="does not fit"):
        fft_conv(noise(2, 2, 6), noise(*kernel))


def test_a_chunk_has_channels():
    with pytest.raises(ValueError, match="at least one"):
        fft_conv(noise(1, 2, 6), noise(1, 2, 3), chunk=0)


# --- convolution in fractional coordinates -------------------------------------------------------


@pytest.mark.parametrize("sizes", [(9,), (6, 7), (6, 7, 8)])
@pytest.mark.parametrize("kernel", ["siren", "fourier"])
def test_circular_convolution_commutes_with_rolls(sizes, kernel):
    module = seeded(CKConvND, len(sizes), 4, kernel, padding="circular", samples=8)
    x, axes = noise(2, 4, *sizes), tuple(range(2, 2 + len(sizes)))
    shifts = (2, -3, 5)[: len(sizes)]
    with torch.no_grad():
        torch.testing.assert_close(
            module(x.roll(shifts, axes)), module(x).roll(shifts, axes), rtol=0, atol=1e-6
        )


def test_channels_stay_apart_and_layouts_agree():
    module = seeded(CKConvND, 2, 3, samples=6, chunk=2)
    x = noise(1, 3, 6, 5)
    with torch.no_grad():
        y = module(x)
        changed = module(x * torch.tensor([1.0, 0.0, 1.0])[:, None, None])
        assert torch.equal(changed[:, 1], torch.zeros_like(y[:, 1]))
        torch.testing.assert_close(changed[:, [0, 2]], y[:, [0, 2]])
        module.channels_last, module.chunk = True, None
        torch.testing.assert_close(module(x.movedim(1, -1)), y.movedim(1, -1))


def test_causal_convolution_does_not_see_the_future():
    module = seeded(CKConvND, 1, 2, causal=True, samples=12)
    x, later = noise(1, 2, 12), noise(1, 2, 12)
    later[..., 7:] += 1
    with torch.no_grad():
        before, after = module(x), module(later)
    torch.testing.assert_close(before[..., :7], after[..., :7], rtol=0, atol=1e-6)
    assert (before[..., 7:] - after[..., 7:]).abs().min() > 1e-3


def test_kernel_sizes_follow_the_grid():
    zero = CKConvND(2, 2)
    assert zero.kernel_for((6, 7)).shape == (1, 2, 11, 13)
    assert CKConvND(2, 2, grid="single").kernel_for((6, 7)).shape == (1, 2, 5, 7)
    mixed = CKConvND(2, 2, padding=["circular", "zero"], samples=[8, 6])
    assert mixed.kernel_for((6, 7)).shape == (1, 2, 5, 13)
    assert mixed.samples == (4, 6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_convolution_of_low_precision(dtype):
    module = seeded(CKConvND, 2, 4, padding="circular", samples=8)
    x = noise(1, 4, 8, 8)
    with torch.no_grad():
        exact = module(x)
        assert module(x.to(dtype)).dtype == dtype
        torch.testing.assert_close(module(x.to(dtype)).float(), exact, rtol=0.05, atol=0.05)
        low = module.to(dtype)(x.to(dtype))
        assert low.dtype == dtype
        torch.testing.assert_close(low.float(), exact, rtol=0.3, atol=0.3)


def test_autocast_does_not_touch_the_kernel():
    module = seeded(CKConvND, 2, 4, samples=8)
    with torch.no_grad():
        exact = module.kernel_for((8, 8))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(module.kernel_for((8, 8)), exact)


def test_every_parameter_but_the_rates_learns():
    module = seeded(CKConvND, 3, 2, padding=["zero", "circular", "zero"], samples=6)
    x = noise(1, 2, 4, 5, 6).requires_grad_()
    module(x).square().sum().backward()
    assert x.grad.abs().max() > 0
    for name, parameter in module.named_parameters():
        assert (parameter.grad is None) == (name == "mask.weight"), name


@pytest.mark.parametrize("padding", ["zero", "circular", ["circular", "zero"]])
def test_export(padding):
    module = seeded(CKConvND, 2, 3, padding=padding, samples=6).eval()
    x = noise(1, 3, 6, 8)
    exported = torch.export.export(module, (x,)).module()
    torch.testing.assert_close(exported(x), module(x))


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ({"padding": ["circular", "zero"], "grid": "single"}, ValueError, "Padding per axis"),
        ({"padding": "circular", "grid": "double"}, AssertionError, "single grid"),
        ({"grid": "triple"}, AssertionError, "triple"),
        ({"causal": True}, AssertionError, "one axis"),
        ({"data_dim": 1, "causal": True, "padding": "circular"}, ValueError, "'zero'"),
        ({"data_dim": 1, "causal": True, "padding": ["zero"]}, ValueError, "'zero'"),
        ({"data_dim": 1, "padding": "causal"}, ValueError, "causal=True"),
        ({"kernel": "spline"}, ValueError, "spline"),
        ({"mask": "gaussian"}, ValueError, "gaussian"),
        ({"samples": True}, TypeError, "integer"),
        ({"samples": 4.0}, TypeError, "integer"),
        ({"samples": 1}, ValueError, "from 2"),
        ({"samples": [8, 8, 8]}, ValueError, "2 integers"),
        ({"samples": 2, "padding": "circular"}, ValueError, "single grid"),
        ({"kernel_arguments": {"omega": 3}}, TypeError, "omega"),
    ],
)
def test_contradictions_are_refused(arguments, error, word):
    with pytest.raises(error, match=word):
        CKConvND(**{"data_dim": 2, "hidden_dim": 2, **arguments})
    with pytest.raises(ModelError, match="cannot be built"):
        networks.build("CKConvND", **{"data_dim": 2, "hidden_dim": 2, **arguments})


def test_built_by_name():
    for name, arguments in [
        ("CKConvND", {"data_dim": 3, "hidden_dim": 2, "padding": "circular"}),
        ("CartesianCKConv3d", {"channels": 2, "reach": 2.5}),
        ("ExponentialModulationND", {"data_dim": 3, "num_channels": 2}),
        ("SirenKernel", {"data_dim": 3, "out_dim": 2}),
        ("FourierKernel", {"data_dim": 3, "out_dim": 2}),
    ]:
        assert type(networks.build(name, **arguments)).__name__ == name
    assert networks.fft_conv is fft_conv


# --- convolution in Å ----------------------------------------------------------------------------


def crystal_conv(channels=4, **arguments):
    return seeded(CartesianCKConv3d, channels, **arguments).eval()


def wave_packet(lattice, shape, channels=1):
    """Smooth periodic values: sums of few waves of the fractional coordinates."""
    d, h, w = torch.meshgrid(*(torch.arange(n).double() / n for n in shape), indexing="ij")
    values = [
        torch.cos(2 * math.pi * (k * d + h - w)) + torch.sin(2 * math.pi * (d - k * h + 2 * w))
        for k in range(1, channels + 1)
    ]
    return torch.stack(values)[None].float()


def close(actual, expected, atol=2e-6):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.3])  # the smaller cell is far below the reach
@torch.no_grad()
def test_crystal_shift_and_supercell(isotropic, scale):
    conv = crystal_conv(isotropic=isotropic)
    lattice, x = scale * TRICLINIC[None], noise(1, 4, 9, 8, 7)
    y = conv(x, lattice)
    shifts = ((2, -3, 4), (2, 3, 4))
    close(conv(x.roll(*shifts), lattice), y.roll(*shifts))
    doubled = lattice * torch.tensor([2.0, 1.0, 3.0])[:, None]
    close(conv(x.repeat(1, 1, 2, 1, 3), doubled), y.repeat(1, 1, 2, 1, 3))


@torch.no_grad()
def test_crystal_rotation_and_handedness():
    conv, x = crystal_conv(), noise(1, 4, 9, 8, 7)
    rotation = torch.linalg.qr(noise(3, 3))[0]
    y = conv(x, TRICLINIC[None])
    close(conv(x, (TRICLINIC @ rotation)[None]), y, atol=1e-5)
    close(conv(x, (TRICLINIC @ -rotation)[None]), y, atol=1e-5)
    directed = crystal_conv(isotropic=False)
    difference = directed(x, (TRICLINIC @ rotation)[None]) - directed(x, TRICLINIC[None])
    assert difference.abs().max() > 1e-2  # a kernel of the direction does see the rotation


@torch.no_grad()
def test_crystal_sheared_description():
    conv, n = crystal_conv(), 8
    x = noise(1, 4, n, n, n)
    sheared = TRICLINIC.clone()
    sheared[1] += sheared[0]  # point (i, j) of the new grid is (i + j, j) of the old one
    i, j, k = torch.meshgrid(*[torch.arange(n)] * 3, indexing="ij")

    def shear(values):
        return values[:, :, (i + j) % n, j, k]

    close(conv(shear(x), sheared[None]), shear(conv(x, TRICLINIC[None])))


@pytest.mark.parametrize("isotropic", [True, False])
@torch.no_grad()
def test_crystal_axes_in_another_order_or_direction(isotropic):
    conv, x = crystal_conv(isotropic=isotropic), noise(1, 4, 9, 8, 7)
    y = conv(x, TRICLINIC[None])
    swapped = TRICLINIC[[1, 0, 2]]  # left-handed
    close(conv(x.transpose(2, 3), swapped[None]), y.transpose(2, 3))
    reversed_ = TRICLINIC * torch.tensor([1.0, -1.0, 1.0])[:, None]
    close(conv(x.flip(3), reversed_[None]), y.flip(3))


@pytest.mark.parametrize("isotropic", [True, False])
@torch.no_grad()
def test_crystal_converges_with_a_finer_grid(isotropic):
    conv = crystal_conv(2, isotropic=isotropic, mask_arguments={"fast_decay_pct": 6.0})
    results = [
        conv(wave_packet(TRICLINIC, (n, n, n), 2), TRICLINIC[None])[
            :, :, :: n // 12, :: n // 12, :: n // 12
        ]
        for n in (12, 24, 48)
    ]
    signal = (results[2] - results[2].mean()).std()
    coarse, fine = ((r - results[2]).abs().max() / signal for r in results[:2])
    assert fine < 0.01
    assert fine < coarse / 2


@torch.no_grad()
def test_crystal_kernel_equals_its_integral():
    # On a large cell the sum over the kernel is the mean of the network over the window.
    conv = crystal_conv(3, reach=2.0)
    lattice, shape = 5 * torch.eye(3)[None], (40, 40, 40)
    one = conv(torch.ones(1, 3, *shape), lattice)
    u = (torch.arange(4000)[:, None] + 0.5) / 4000
    weight = u**2 * (1 - u**2) ** 2 * torch.exp(-u * conv.mask.weight)
    mean = (weight * conv.kernel(u)).sum(0) / weight.sum(0) + conv.shortcut
    torch.testing.assert_close(one[0, :, 3, 4, 5], mean, rtol=0, atol=5e-3)


@torch.no_grad()
def test_crystal_kernel_ends_at_its_reach():
    conv = crystal_conv(2, reach=2.0)
    x = torch.zeros(1, 2, 20, 20, 20)
    x[..., 10, 10, 10] = 1
    y = conv(x, 8 * torch.eye(3)[None])[0]
    i = 0.4 * (torch.arange(20) - 10.0)
    distance = (i[:, None, None] ** 2 + i[:, None] ** 2 + i**2).sqrt()
    assert y[:, distance >= 2.0].abs().max() < 1e-7
    assert y[0, (distance > 1.0) & (distance < 1.5)].abs().max() > 1e-5


@torch.no_grad()
def test_crystals_of_a_batch_have_their_own_lattices():
    conv, x = crystal_conv(5, chunk=2), noise(2, 5, 6, 7, 8)
    lattices = torch.stack([TRICLINIC, 0.7 * TRICLINIC])
    together = conv(x, lattices)
    for number in range(2):
        alone = slice(number, number + 1)
        close(conv(x[alone], lattices[alone]), together[alone])
    conv.chunk = None
    close(conv(x, lattices), together)
    close(conv(x, lattices[:1])[1:], conv(x[1:], lattices[:1]))


def test_crystal_spectrum_is_kept_only_while_it_holds():
    conv, x = crystal_conv(2), noise(1, 2, 6, 6, 6)
    made = []
    fresh = conv._fresh_spectrum
    conv._fresh_spectrum = lambda *args: made.append(args) or fresh(*args)

    @torch.no_grad()
    def passes(lattice=TRICLINIC[None], values=x):
        before = len(made)
        y = conv(values, lattice)
        return y, len(made) - before

    assert passes()[1] == 1
    first, again = passes()
    assert again == 0
    assert passes(0.5 * TRICLINIC[None])[1] == 1
    assert passes(values=x.repeat(1, 1, 2, 1, 1))[1] == 1
    close(passes()[0], first)
    with torch.no_grad():
        conv.kernel.out_linear.weight.mul_(2)
    changed, count = passes()
    assert count == 1
    assert (changed - first).abs().max() > 1e-3
    conv.eval()
    assert passes()[1] == 1
    conv(x, TRICLINIC[None]).sum().backward()  # with gradients it is made anew, and learns
    assert conv.kernel.out_linear.weight.grad.abs().max() > 0


def test_crystal_parameters_learn():
    conv = seeded(CartesianCKConv3d, 2, mask_arguments={"learnable": True})
    x = noise(1, 2, 5, 6, 7).requires_grad_()
    with torch.inference_mode():
        conv(x.detach(), TRICLINIC[None])  # must not spoil what training uses
    conv(x, TRICLINIC[None]).square().sum().backward()
    assert x.grad.abs().max() > 0
    for name, parameter in conv.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    assert not CartesianCKConv3d(2).mask.weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_crystal_of_low_precision(dtype):
    conv, x = crystal_conv(), noise(1, 4, 6, 6, 6)
    exact = conv(x, TRICLINIC[None])
    y = conv(x.to(dtype), TRICLINIC[None])
    assert y.dtype == dtype
    close(y.float(), exact, atol=0.03)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(conv.train()(x, TRICLINIC[None]), exact)


@torch.no_grad()
def test_crystal_compiles_once_for_all_lattices():
    conv, x = crystal_conv(2), noise(1, 2, 6, 6, 6)
    compiled = torch.compile(conv, backend="eager")
    torch.testing.assert_close(compiled(x, TRICLINIC[None]), conv(x, TRICLINIC[None]))
    with torch.compiler.set_stance("fail_on_recompile"):
        for scale in (1.1, 1.2):
            lattice = scale * TRICLINIC[None]
            torch.testing.assert_close(compiled(x, lattice), conv(x, lattice))


def test_plain_passes_do_not_import_the_compiler():
    script = """
import sys, torch
from napari_vox3d.networks import CartesianCKConv3d
conv = CartesianCKConv3d(2)
conv(torch.rand(1, 2, 4, 4, 4), 5 * torch.eye(3)[None]).sum().backward()
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_crystal_errors():
    conv, x = CartesianCKConv3d(2), noise(2, 2, 4, 4, 4)
    flat = TRICLINIC.clone()
    flat[2] = flat[0] + flat[1]
    with pytest.raises(ValueError, match="span a volume"):
        conv(x, flat[None])
    with pytest.raises(ValueError, match="does not fit"):
        conv(x, TRICLINIC)
    with pytest.raises(ValueError, match="does not fit"):
        conv(x, TRICLINIC.repeat(3, 1, 1))
    with pytest.raises(ValueError, match="Expected"):
        conv(noise(1, 3, 4, 4, 4), TRICLINIC[None])
    with pytest.raises(ValueError, match="reach"):
        CartesianCKConv3d(2, reach=0)
    with pytest.raises(ValueError, match="spline"):
        CartesianCKConv3d(2, kernel="spline")
