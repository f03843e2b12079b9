import threading

import pytest
import torch

from napari_vox3d.errors import InferenceError, is_out_of_memory
from napari_vox3d.inference import device as module
from napari_vox3d.inference.device import (
    autocast,
    available_devices,
    choose_device,
    choose_precision,
    leave_a_core_free,
)


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine with the given devices."""

    def pretend(gpus=0, mps=False, capability=(8, 0), amx=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)

    return pretend


def test_processor_is_always_there(machine):
    machine()
    assert available_devices() == ["cpu"]
    assert choose_device() == choose_device("cpu") == torch.device("cpu")
    assert choose_device(torch.device("cpu")) == torch.device("cpu")


def test_graphics_cards(machine):
    machine(gpus=2)
    assert available_devices() == ["cpu", "cuda:0", "cuda:1"]
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda:0")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InferenceError, match=r"cuda:2.*there is cpu, cuda:0, cuda:1"):
        choose_device("cuda:2")


@pytest.mark.parametrize("capable", [True, False])
def test_apple_is_chosen_where_it_can(machine, monkeypatch, capable):
    machine(mps=True)
    monkeypatch.setattr(module, "_mps_knows_3d", lambda: capable)
    assert choose_device("auto").type == ("mps" if capable else "cpu")
    assert choose_device("mps").type == "mps"


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "gpu", "", "cpu:7"])
def test_absent_device(machine, name):
    machine()
    with pytest.raises(InferenceError, match=f"no device '{name}'.*there is cpu"):
        choose_device(name)


@pytest.mark.parametrize(
    ("settings", "device", "expected"),
    [
        ({}, "cpu", torch.float32),
        ({"amx": True}, "cpu", torch.bfloat16),
        ({"gpus": 1}, "cuda:0", torch.bfloat16),
        ({"gpus": 1, "capability": (7, 5)}, "cuda:0", torch.float32),
        ({"mps": True}, "mps", torch.float32),
    ],
)
def test_automatic_precision(machine, settings, device, expected):
    machine(**settings)
    assert choose_precision("auto", device) == expected


def test_precision_by_name(machine):
    machine(gpus=1, capability=(7, 5))
    assert choose_precision("float32", "cpu") == torch.float32
    assert choose_precision("bfloat16", "cpu") == torch.bfloat16
    assert choose_precision("float16", "cuda:0") == torch.float16
    for name, device in [("float16", "cpu"), ("bfloat16", "cuda:0"), ("float64", "cpu")]:
        with pytest.raises(InferenceError, match=f"{name}' is not offered on {device}; choose"):
            choose_precision(name, device)


def test_autocast():
    layer, x = torch.nn.Conv3d(1, 1, 3), torch.rand(1, 1, 4, 4, 4)
    with autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    with autocast("cpu", torch.float32):
        assert layer(x).dtype == torch.float32


def test_real_failure_of_the_allocator_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("Given groups=1, expected 5D input"), False),
        (ValueError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected


def test_a_core_stays_free_inside_only(monkeypatch):
    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)
    found = []

    def work():
        torch.set_num_threads(2)
        with leave_a_core_free():
            found.append(torch.get_num_threads())
        found.append(torch.get_num_threads())

    before = torch.get_num_threads()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    torch.set_num_threads(before)
    assert found == [1, 2]
