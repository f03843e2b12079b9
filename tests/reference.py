"""The project's modules, built and run for reference vectors of other implementations.

A vector is a safetensors file with ``state/<key>``, ``in/<name>`` and ``out/<name>`` tensors and a
``config`` string (JSON) in its metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from napari_vox3d.networks import CKConvND, ExponentialModulationND, fft_conv, mdnc
from napari_vox3d.networks.backbones import HRNet, SOANet, UNet
from napari_vox3d.networks.cell_options import CellOptions
from napari_vox3d.networks.cells import Block, Cell, CellKind
from napari_vox3d.networks.resampling import DownSample2x, UpSample2x

_MDNC = ("ConvModern", "EncoderNet", "UNet", "AE", "DecoderNet")
_NVSUBQ = ("ExponentialModulationND", "CKConvND")


def build(config: dict[str, Any], state: dict[str, Tensor]) -> torch.nn.Module:
    """The project's module for the `config` of a vector, with its `state` loaded."""
    return _family(config).build(config, state).eval()


def run(module: torch.nn.Module, config: dict[str, Any], inputs: dict[str, Tensor]) -> list[Tensor]:
    """Outputs of a module from `build` on the inputs of a vector, in order."""
    with torch.no_grad():
        return _family(config).run(module, config, inputs)


def _family(config: dict[str, Any]) -> Any:
    name = config.get("cls", "")
    if "fn" in config or name in _NVSUBQ:
        return _Continuous
    if name[:-2] in _MDNC and name[-2:] in ("1d", "2d", "3d"):
        return _Convolutional
    return _Attention


class _Convolutional:
    """EncoderNet and its family (MDNC)."""

    @staticmethod
    def build(config: dict[str, Any], state: dict[str, Tensor]) -> torch.nn.Module:
        module = getattr(mdnc, config["cls"])(**config["kwargs"])
        module.load_state_dict(state)
        return module

    @staticmethod
    def run(
        module: torch.nn.Module, config: dict[str, Any], inputs: dict[str, Tensor]
    ) -> list[Tensor]:
        return [module(inputs["x"])]


class _Continuous:
    """Continuous kernels and FFT convolutions (nvSubquadratic)."""

    @staticmethod
    def build(config: dict[str, Any], state: dict[str, Tensor]) -> torch.nn.Module:
        if "fn" in config:
            return _FFTConvolution(config)
        if config["cls"] == "ExponentialModulationND":
            module: torch.nn.Module = ExponentialModulationND(**config.get("kwargs", {}))
        else:
            module = CKConvND(**_Continuous._convolution_arguments(config))
        module.load_state_dict(state)
        return module

    @staticmethod
    def run(
        module: torch.nn.Module, config: dict[str, Any], inputs: dict[str, Tensor]
    ) -> list[Tensor]:
        if "fn" in config:
            return [module(inputs["x"], inputs["kernel"], inputs.get("shortcut"))]
        if config["cls"] == "ExponentialModulationND":
            return [module(inputs["grid"], inputs["x"])]
        return [module(inputs["x"])]

    @staticmethod
    def _convolution_arguments(config: dict[str, Any]) -> dict[str, Any]:
        kernel = dict(config["kernel_kwargs"])
        samples = kernel.pop("L_cache")
        # hidden_omega_0 cancels in the initialisation and is not used later; no other argument
        # changes what a loaded kernel computes
        used = ("mlp_hidden_dim", "num_layers", "embedding_dim", "omega_0", "use_bias")
        kernel = {key: kernel[key] for key in used if key in kernel}
        kernel["num_layers"] = max(2, kernel["num_layers"])  # the original takes 1 for 2
        if config["kernel"] == "fourier":
            kernel["nonlinear"] = config.get("nonlinear", "GELU")
        padding = config["fft_padding"]
        return {
            "data_dim": config["data_dim"],
            "hidden_dim": config["hidden_dim"],
            "kernel": config["kernel"],
            "kernel_arguments": kernel,
            "mask": None if config["mask"] in (None, "Identity") else "exponential",
            "mask_arguments": {
                key: value
                for key, value in config.get("mask_kwargs", {}).items()
                if key not in ("data_dim", "num_channels")
            },
            "padding": padding,
            "causal": config.get("is_causal", False),
            "grid": config.get("grid_type"),
            "samples": samples,
            "chunk": 3 if config.get("use_chunked_fftconv") else None,
            "channels_last": not config.get("is_bhl_input", False),
        }


class _FFTConvolution(torch.nn.Module):
    """`fft_conv` as one of the original's functions: its padding, layout and chunks."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        name = config["fn"]
        kinds = ("causal", "circular", "mixed")
        self.padding: Any = next((kind for kind in kinds if name.startswith(kind)), "zero")
        if self.padding == "mixed":
            self.padding = ["circular" if axis else "zero" for axis in config["periodic"]]
        self.channels_last = "_blh" in name or "_w_reshape" in name
        self.chunk = 2 if "chunked" in name else None

    def forward(self, x: Tensor, kernel: Tensor, shortcut: Tensor | None) -> Tensor:
        if self.channels_last:
            x, kernel = x.movedim(-1, 1), kernel.movedim(-1, 1)
        size, taps = x.shape[-1], kernel.shape[-1]
        if self.padding == "causal" and size < taps <= 2 * size:
            y = self._wrapping(x, kernel, shortcut)
        else:
            y = fft_conv(x, kernel, self.padding, shortcut, self.chunk)
        return y.movedim(1, -1) if self.channels_last else y

    def _wrapping(self, x: Tensor, kernel: Tensor, shortcut: Tensor | None) -> Tensor:
        """Causal with a kernel longer than the input: the original wraps at twice the input."""
        size = x.shape[-1]
        x = torch.nn.functional.pad(x, (0, size))
        kernel = torch.nn.functional.pad(kernel, (0, 2 * size - kernel.shape[-1]))
        centred = kernel.roll(size - 1, -1)
        return fft_conv(x, centred, "circular", shortcut, self.chunk)[..., :size]


class _Attention:
    """Cells, blocks, samplers and backbones (SNRAware). Sizes are in the order (H, W, D) there."""

    OPTIONS: ClassVar = {
        "n_head": "heads",
        "scale_ratio_in_mixer": "mixer_ratio",
        "mixer_type": "mixer",
        "attention_type": "attention",
        "cosine_att": "cosine",
        "normalize_Q_K": "normalise_qk",
        "att_with_relative_position_bias": "position_bias",
        "att_dropout_p": "attention_dropout",
        "dropout_p": "drop_path",
        "att_with_output_proj": "output_projection",
        "norm_mode": "norm",
        "activation_func": "activation",
        "is_causal": "causal",
    }
    KINDS: ClassVar = {
        "temporal": CellKind("temporal"),
        "local": CellKind("local"),
        "local_3d": CellKind("local", depth=True),
        "global": CellKind("global"),
        "global_3d": CellKind("global", depth=True),
        "vit_2d": CellKind("vit"),
        "vit_3d": CellKind("vit", depth=True),
        "swin_3d": CellKind("swin", depth=True),
        "swin_3d_shifted": CellKind("swin", depth=True, shifted=True),
        "conv2d": CellKind("conv"),
        "conv3d": CellKind("conv", depth=True),
    }
    WINDOWS = r"(\w+) image size .* windows size (\[.*?\]) - patch size (\[.*?\])"
    RENAMED: ClassVar = (
        (r"\.(conv|linear|bn|ln)\.(\w+)$", r".\2"),
        (r"\bblock\.[DU]2_(\d+)\.conv\.", r"convs.\1."),
        (r"\bblock\.cell_(\d+)\.", r"cells.\1."),
        (r"\battn\.n1\.", "attn.norm."),
        (r"\battn\.act_func\.", "attn.activation."),
        (r"\battn\.output_proj\.", "attn.output."),
        (r"\battn\.relative_position_bias_table$", "attn.bias.table"),
        (r"\battn\.", "attention."),
        (r"\binput_proj\.", "project."),
        (r"\bn([12])\.", r"norm\1."),
        (r"\bmlp\.", "mixer."),
        (r"^(D\d|bridge|U\d|B\d\d|output_B\d)\.", r"blocks.\1."),
        (r"^(down|up)_", r"samplers.\1_"),
        (r"^(attention_\d)\.conv_x\.", r"gates.\1.skip."),
        (r"^(attention_\d)\.conv_", r"gates.\1."),
    )

    @staticmethod
    def build(config: dict[str, Any], state: dict[str, Tensor]) -> torch.nn.Module:
        make = {
            "Block": _Attention._block,
            "Cell": _Attention._cell,
            "Parallel_Cell": _Attention._cell,
            "DownSample": _Attention._sampler,
            "UpSample": _Attention._sampler,
            "Unet": _Attention._unet,
            "HRnet": _Attention._hrnet,
            "SOAnet": _Attention._soanet,
        }
        if config["cls"] == "SOAnet":
            state = _Attention._by_stage(state)
        return _Attention.load(make[config["cls"]](config), state)

    @staticmethod
    def run(
        module: torch.nn.Module, config: dict[str, Any], inputs: dict[str, Tensor]
    ) -> list[Tensor]:
        out = module(inputs["x"])
        return [out] if isinstance(out, Tensor) else list(out)

    @staticmethod
    def _block(config: dict[str, Any]) -> torch.nn.Module:
        return Block(
            config["C_in"],
            config["C_out"],
            config["block_str"],
            _Attention.shape(config),
            **_Attention.block_options(config["overrides"], config["block_str"]),
        )

    @staticmethod
    def _cell(config: dict[str, Any]) -> torch.nn.Module:
        given = {"n_head": 8, "norm_mode": "layer", "normalize_Q_K": False, **config["kwargs"]}
        kind = _Attention.KINDS[given["att_mode"]]
        if kind.attention in ("vit", "swin"):
            given["n_head"] = 8  # whatever is asked for
        options = _Attention.cell_options(given)
        shape = _Attention.shape(given)
        if kind.attention == "swin":
            options["window"] = _Attention.depth_first(given["window_size"])
        else:  # numbers of windows and patches go before their sizes
            windows = _Attention.depth_first(given.get("num_wind") or (8, 8))
            patches = _Attention.depth_first(given.get("num_patch") or (4, 4))
            if kind == CellKind("global"):  # halves its windows, with half as many patches in each
                patches = [number // 2 * 2 or 1 for number in patches]
            options["window"] = [max(a // b, 1) for a, b in zip(shape, windows, strict=True)]
            options["patch"] = [
                max(a // b, 1) for a, b in zip(options["window"], patches, strict=True)
            ]
        return Cell(
            given["C_in"],
            given["C_out"],
            kind._replace(mixer=given.get("with_mixer", True)),
            shape,
            CellOptions(**options),
            parallel=config["cls"] == "Parallel_Cell",
        )

    @staticmethod
    def _sampler(config: dict[str, Any]) -> torch.nn.Module:
        sizes = config["C_in"], config["C_out"], config.get("N", 2)
        depth = config.get("is_3D", False)
        if config["cls"] == "DownSample":
            return DownSample2x(*sizes, method="patch_merge", depth=depth)
        method = "nearest" if config.get("method") == "NN" else "linear"
        return UpSample2x(*sizes, method=method, depth=depth)

    @staticmethod
    def _unet(config: dict[str, Any]) -> torch.nn.Module:
        levels = config["overrides"].get("num_resolution_levels", 2)
        gates = config["overrides"].get("use_unet_attention", True)
        arguments = _Attention._backbone_arguments(config, levels, bridge=True)
        return UNet(**arguments, levels=levels, attention_gates=gates)

    @staticmethod
    def _hrnet(config: dict[str, Any]) -> torch.nn.Module:
        levels = config["overrides"].get("num_resolution_levels", 2)
        return HRNet(**_Attention._backbone_arguments(config, levels), levels=levels)

    @staticmethod
    def _soanet(config: dict[str, Any]) -> torch.nn.Module:
        stages = config["overrides"].get("num_stages", 2)
        arguments = _Attention._backbone_arguments(config, stages)
        arguments.pop("upsampler")
        downsample = config["overrides"].get("downsample", True)
        return SOANet(**arguments, stages=stages, downsample=downsample)

    @staticmethod
    def _by_stage(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """State of a stack whose layers have the names of our blocks and samplers.

        Down-samplers are layers there, and the last one is listed a second time.
        """
        layers = [key for key in state if key.startswith("layers.")]
        numbers = {
            kind: sorted({int(key.split(".")[1]) for key in layers if kind in key})
            for kind in (".block.cell_", ".block.D2_")
        }
        stages, downs = numbers.values()
        names = {f"layers.{n}.": f"blocks.Stage{i}." for i, n in enumerate(stages)}
        names |= {f"layers.{n}.": f"down_{i}." for i, n in enumerate(downs)}
        starts = {key: key[: key.index(".block.") + 1] for key in layers}
        return {names[starts[key]] + key.removeprefix(starts[key]): state[key] for key in layers}

    @staticmethod
    def _backbone_arguments(
        config: dict[str, Any], levels: int, bridge: bool = False
    ) -> dict[str, Any]:
        """What the backbones have in common; windows as the original logged them."""
        overrides = config["overrides"]
        strings = overrides.get("block_str", ["T1L1G1"])
        last = [strings[-1]] if bridge else []
        windows = {}
        for line in config["window_log"]:
            place, window, patch = re.match(_Attention.WINDOWS, line).groups()
            windows[re.sub(r"^output_B?", "output_B", place)] = [
                _Attention.depth_first(json.loads(size)) for size in (window, patch)
            ]
        nearest = overrides.get("block__cell__upsample_method") == "NN"
        return {
            "in_channels": config["C_in"],
            "shape": _Attention.shape(config),
            "channels": overrides.get("num_of_channels", 32),
            "blocks": strings[:levels] + last,
            "downsampler": "patch_merge",
            "upsampler": "nearest" if nearest else "linear",
            "windows": windows,
            **_Attention.block_options(overrides, "".join(strings)),
        }

    @staticmethod
    def shape(config: dict[str, Any]) -> tuple[int, int, int]:
        return config["D"], config["H"], config["W"]

    @staticmethod
    def depth_first(size: Sequence[int]) -> tuple[int, int, int]:
        height, width, depth = (*size, 1)[:3]  # planes may have no depth
        return depth, height, width

    @staticmethod
    def cell_options(given: dict[str, Any]) -> dict[str, Any]:
        """Fields of `CellOptions` from names of the original, but for window and patch."""
        return {
            ours: given[theirs] for theirs, ours in _Attention.OPTIONS.items() if theirs in given
        }

    @staticmethod
    def block_options(overrides: dict[str, Any], cells: str) -> dict[str, Any]:
        """Keyword arguments of `Block` from overrides of the original's configuration.

        `cells` are all block strings of the network, joined: without T, L and G there are 8 heads.
        """
        start = "block__cell__"
        given = {k.removeprefix(start): v for k, v in overrides.items() if k.startswith(start)}
        options = _Attention.cell_options(given)
        for theirs, ours in (("window_size", "window"), ("patch_size", "patch")):
            if theirs in given:
                options[ours] = _Attention.depth_first(given[theirs])
        if not set(cells) & set("TLG"):
            options["heads"] = 8
        if "block__block_dense_connection" in overrides:
            options["dense"] = overrides["block__block_dense_connection"]
        if "block__cell_type" in overrides:
            options["cell"] = overrides["block__cell_type"].lower()
        return options

    @staticmethod
    def load(module: torch.nn.Module, state: dict[str, Tensor]) -> torch.nn.Module:
        """Put a state of the original into a module whose places have its names."""
        for cell in module.modules():
            if isinstance(cell, Cell) and cell.kind.attention in ("vit", "swin"):
                _Attention._give_eight_heads(cell.attention)
        renamed = {}
        for key, value in state.items():
            for theirs, ours in _Attention.RENAMED:
                key = re.sub(theirs, ours, key)
            renamed[key] = value
        missing = set(module.state_dict()) - set(renamed)
        assert not missing, f"no value for {sorted(missing)}"
        wanted = {}
        for key, value in module.state_dict().items():  # planes have kernels one voxel deep here
            theirs = renamed.pop(key)
            wanted[key] = theirs.unsqueeze(2) if theirs.ndim == value.ndim - 1 == 4 else theirs
        unused = ("relative_position_index", "attention.mask", "norm2.")  # not parameters, not used
        left = [key for key in renamed if not any(name in key for name in unused)]
        assert not left, f"no place for {left}"
        module.load_state_dict(wanted)
        return module

    @staticmethod
    def _give_eight_heads(attention: torch.nn.Module) -> None:
        """ViT and Swin cells of the original have 8 heads whatever its configuration says."""
        attention.heads = 8
        if attention.bias is not None:
            table = attention.bias.table
            attention.bias.table = torch.nn.Parameter(table.new_zeros(len(table), 8))
