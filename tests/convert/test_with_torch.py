"""Our .pth and .safetensors files against PyTorch itself, both ways."""

import argparse
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from lumina_jax.convert.tensor_files import open_tensors
from lumina_jax.convert.write_tensors import write_pth, write_safetensors

pytestmark = pytest.mark.torch

RNG = np.random.default_rng(0)
VALUES = {
    "bf16": RNG.normal(size=(5, 7)).astype(ml_dtypes.bfloat16),
    "f32": RNG.normal(size=(2, 3, 4)).astype(np.float32),
    "f16": RNG.normal(size=9).astype(np.float16),
    "f64": RNG.normal(size=(1, 1)),
    "i64": np.array(-(2**62)),
    "u8": np.arange(200, dtype=np.uint8),
    "empty": np.zeros((0, 4), np.float32),
    "bool": np.array([True, False]),
    "f8": np.arange(6).astype(ml_dtypes.float8_e5m2),
    "u16": np.arange(3, dtype=np.uint16),
}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def raw(torch, tensor) -> bytes:
    """A tensor's bytes in its order of elements."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(torch, tensor, value: np.ndarray) -> bool:
    """Whether shape, dtype and bits are equal."""
    name = str(tensor.dtype).removeprefix("torch.")
    return (tuple(tensor.shape), name, raw(torch, tensor)) == (
        value.shape,
        str(value.dtype),
        value.tobytes(),
    )


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_loads_what_we_write(torch, tmp_path, mmap):
    """Restricted to weights, mapped or not, bit for bit."""
    write_pth(tmp_path / "a.pth", {k: (v.shape, v.dtype) for k, v in VALUES.items()}, VALUES.get)
    loaded = torch.load(tmp_path / "a.pth", mmap=mmap, weights_only=True)
    assert list(loaded) == list(VALUES)
    for name, value in VALUES.items():
        assert same(torch, loaded[name], value), name
        assert loaded[name].is_contiguous()


def test_torch_side_of_safetensors_loads_what_we_write(torch, tmp_path):
    """With bfloat16 and 8-bit floats."""
    load_file = pytest.importorskip("safetensors.torch").load_file
    entries = {k: (v.shape, v.dtype) for k, v in VALUES.items()}
    write_safetensors(tmp_path / "a.safetensors", entries, VALUES.get)
    loaded = load_file(tmp_path / "a.safetensors")
    assert all(same(torch, loaded[name], value) for name, value in VALUES.items())


def tensors(torch) -> dict:
    """Tensors of many kinds, some of them in one storage."""
    base = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    return {
        "base": base,
        "tied": base,
        "transposed": base.t(),
        "rows": base[2:5],
        "column": base[:, 3],
        "stepped": base[::2, 1::3],
        "bf16": base.bfloat16(),
        "parameter": torch.nn.Parameter(base.half()),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "channels_last": torch.arange(120.0)
        .reshape(2, 3, 4, 5)
        .to(memory_format=torch.channels_last),
        "bool": base > 0,
        "f8": base.to(torch.float8_e4m3fn),
        "u16": torch.arange(5).to(torch.uint16),
        **{str(d): torch.arange(-3, 4).to(d) for d in (torch.int8, torch.int32, torch.int64)},
    }


def lightning(torch) -> dict:
    """What Lightning saves around a state dictionary: numbers of numpy, namespaces, classes, optimisers."""
    state = OrderedDict(tensors(torch))
    state._metadata = OrderedDict({"": {"version": 1}})
    return {
        "epoch": 3,
        "state_dict": state,
        "hyper_parameters": argparse.Namespace(rate=1e-4, path=Path("runs")),
        "best": np.float64(0.25),
        "array": np.arange(3),
        "callbacks": {argparse.ArgumentParser: {"kept": {1, 2}, "bytes": b"abc"}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{}]}],
    }


@pytest.mark.parametrize("wrap", [tensors, lightning, lambda torch: {"model": tensors(torch)}])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("checksums", [True, False])
def test_we_read_what_torch_saves(torch, tmp_path, wrap, protocol, checksums):
    torch.serialization.set_crc32_options(checksums)
    try:
        torch.save(wrap(torch), tmp_path / "a.ckpt", pickle_protocol=protocol)
    finally:
        torch.serialization.set_crc32_options(True)
    expected = tensors(torch)
    stored = open_tensors(tmp_path / "a.ckpt")
    assert list(stored) == list(expected)
    for name, tensor in expected.items():
        assert same(torch, tensor, stored[name].read()), name


def test_expanded_tensor_is_refused_by_name(torch, tmp_path):
    torch.save({"w": torch.zeros(1).expand(1000)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="'w' cannot be read: .*repeats"):
        open_tensors(tmp_path / "a.pth")


def kinds_that_are_refused(torch, path: Path) -> dict:
    """How to save each, and what is said."""
    module = torch.nn.Linear(2, 3)
    quantised = torch.quantize_per_tensor(torch.zeros(2, 2), 0.1, 0, torch.qint8)
    return {
        "old": (
            lambda: torch.save({"w": torch.zeros(1)}, path, _use_new_zipfile_serialization=False),
            "1.6",
        ),
        "script": (lambda: torch.jit.script(module).save(str(path)), "TorchScript"),
        "module": (lambda: torch.save(module, path), "holds a 'torch.nn.modules.linear.Linear'"),
        "sparse": (lambda: torch.save({"w": torch.eye(2).to_sparse()}, path), "'w' cannot be read"),
        "complex": (lambda: torch.save({"w": torch.zeros(1) * 1j}, path), "ComplexFloatStorage"),
        "quantised": (lambda: torch.save({"w": quantised}, path), "_rebuild_qtensor"),
        "meta": (lambda: torch.save({"w": torch.zeros(2, device="meta")}, path), "_rebuild_meta"),
        "tensor": (lambda: torch.save(torch.zeros(1), path), "want a dictionary"),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", ["old", "script", "module", "sparse", "complex", "quantised", "meta", "tensor"]
)
def test_what_is_no_dictionary_of_dense_tensors_is_refused(torch, tmp_path, kind):
    save, reason = kinds_that_are_refused(torch, tmp_path / "a.pt")[kind]
    save()
    with pytest.raises(ValueError, match=reason) as error:
        open_tensors(tmp_path / "a.pt")
    assert "\n" not in str(error.value)
