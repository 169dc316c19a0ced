"""Machines to compile for without having them: `Topology.parse("v5e:16x16", slices=2).devices()`.

TPU slices are libtpu's (requirements-tpu.txt), GPUs those of JAX's CUDA plugin, neither of which needs an accelerator.
"cpu:8" are devices of this process, for tests.
"""

import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

from lumina_jax.chips import Chip, chip_named

# A platform's compiler: modules of which one is there, and how to have it.
COMPILERS = {"tpu": ("libtpu",), "cuda": ("jax_cuda12_plugin", "jax_cuda13_plugin")}
INSTALL = {
    "tpu": "pip install -r requirements-tpu.txt",
    "cuda": "pip install --no-deps jax-cuda12-plugin jax-cuda12-pjrt, of jax's version",
}
EXAMPLES = "want CHIP:SHAPE, such as v5e:16x16, v5p:4x4x4, h100:8 or a100:4x8 (nodes x GPUs), cpu:8"
LIBTPU_NAMES = {"v5p": "v5"}  # where libtpu has another
# One device a chip: a v4's two cores work as one.
LIBTPU_OPTIONS: dict[str, dict[str, Any]] = {"v4": {"chip_config_name": "megacore"}}
NUM_AXES = {"v4": (3,), "v5p": (3,), "v5e": (2,), "v6e": (2,)}
POD_CHIPS = {"v5e": 256, "v6e": 256}  # one slice at most
# What compilers look for on a machine with accelerators, and need not on one without. CUDA's is read when JAX first
# looks for devices; JAX_PLATFORMS=cpu says the same.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
}


class Gpu(NamedTuple):
    """What XLA's compiler asks about a GPU beside its data sheet's rates."""

    name: str
    capability: str  # fields of its compute capability
    cores: int
    clock_ghz: float
    memory: int  # bytes that programs may use
    cache: int  # bytes of level 2
    shared_per_block: int  # bytes, opted in
    shared_per_core: int


HOPPER = ("major: 9 feature_extension: ACCELERATED_FEATURES", 132, 1.98)
GPUS = {
    "a100": Gpu(
        "NVIDIA A100-SXM4-80GB", "major: 8", 108, 1.41, 84987740160, 41943040, 166912, 167936
    ),
    "h100": Gpu("NVIDIA H100 80GB HBM3", *HOPPER, 84942979072, 52428800, 232448, 233472),
    "h200": Gpu("NVIDIA H200", *HOPPER, 150754820096, 62914560, 232448, 233472),
}

# XLA's GpuTargetConfigProto, by NVIDIA's numbers.
TARGET_CONFIG = """
gpu_device_info {{
  cuda_compute_capability {{ {capability} }}
  name: "{name}" device_vendor: "NVIDIA Corporation" device_address_bits: 64 ecc_enabled: true
  core_count: {cores} fpus_per_core: {fpus} clock_rate_ghz: {clock_ghz}
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: {shared_per_block}
  shared_memory_per_core: {shared_per_core}
  device_memory_size: {memory} memory_bandwidth: {bandwidth} l2_cache_size: {cache}
  driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{name}"
"""


class Topology(NamedTuple):
    """Devices of one kind, and how they hang together."""

    chip: Chip
    shape: tuple[int, ...]  # of a slice: chips along each axis; of GPUs: nodes, and GPUs in each
    num_slices: int
    name: str  # as given

    @classmethod
    def parse(cls, text: str, slices: int = 1) -> "Topology":
        """ "v5e:16x16" and how many slices of it; ValueError for anything else, with examples of what there is."""
        matched = re.fullmatch(r"([\w-]+):(\d+(?:x\d+)*)", text.strip().lower())
        if matched is None:
            raise ValueError(f"topology {text!r}: {EXAMPLES}")
        name, sizes = matched.groups()
        chip, shape = chip_named(name), tuple(int(size) for size in sizes.split("x"))
        if min(shape) < 1 or slices < 1:
            raise ValueError(f"topology {text!r}, {slices} slices: every size must be at least 1")
        if slices > 1 and chip.is_gpu:
            raise ValueError(
                f"topology {text!r}: {slices} slices are for TPUs; name GPU nodes first, as in {name}:4x8"
            )
        if math.prod(shape) > POD_CHIPS.get(name, math.inf):
            raise ValueError(
                f"topology {text!r}: a slice of {name} has at most {POD_CHIPS[name]} chips; add --slices for more"
            )
        if chip.is_gpu:
            wanted, shape = (2,), shape if len(shape) > 1 else (1, *shape)
        else:
            wanted = NUM_AXES.get(name, (1,))
        if len(shape) not in wanted:
            raise ValueError(
                f"topology {text!r}: {name} has {wanted[0]} axes, got {len(shape)}; {EXAMPLES}"
            )
        return cls(chip, shape, slices, text.strip().lower())

    @property
    def num_devices(self) -> int:
        """Of all slices together."""
        return math.prod(self.shape) * self.num_slices

    @property
    def devices_per_slice(self) -> int:
        """Devices whose fast links are joined: of a TPU slice, or of one GPU node."""
        return self.shape[-1] if self.chip.is_gpu else math.prod(self.shape)

    @property
    def num_domains(self) -> int:
        """How many sets of `devices_per_slice` there are: what the data-centre network joins."""
        return self.num_devices // self.devices_per_slice

    def devices(self) -> list[Any]:
        """As compilers know them. Raises ValueError in one line where the compiler is missing or refuses the shape."""
        if self.chip.name == "cpu":
            return self._fake_devices()
        return _gpu_devices(self) if self.chip.is_gpu else _tpu_devices(self)

    def _fake_devices(self) -> list[Any]:
        import jax

        found = jax.devices("cpu")
        if len(found) < self.num_devices:
            raise ValueError(
                f"topology {self.name!r}: this process has {len(found)} CPU devices, want {self.num_devices}: "
                "set JAX_NUM_CPU_DEVICES before it starts"
            )
        return found[: self.num_devices]


def _tpu_devices(topology: Topology) -> list[Any]:
    """Devices of one or more slices, through libtpu."""
    chip = topology.chip.name
    options = {**LIBTPU_OPTIONS.get(chip, {})}
    if math.prod(topology.shape) == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]
    if topology.num_slices > 1:
        options["num_slices"] = topology.num_slices
    sizes = "x".join(map(str, topology.shape))
    name = f"{LIBTPU_NAMES.get(chip, chip)}:{sizes}"
    return _described(topology, "tpu", name, options)


def _gpu_devices(topology: Topology) -> list[Any]:
    """GPUs of one or more nodes, through JAX's CUDA plugin."""
    chip = topology.chip
    if chip.name not in GPUS:
        raise ValueError(
            f"topology {topology.name!r}: no description of {chip.name} for a compiler; "
            f"want one of {', '.join(sorted(GPUS))}"
        )
    gpu = GPUS[chip.name]
    fpus = 64 if chip.name == "a100" else 128
    config = TARGET_CONFIG.format(**gpu._asdict(), fpus=fpus, bandwidth=int(chip.bandwidth))
    sizes = "x".join(map(str, (topology.num_slices, *topology.shape)))
    options = {"target_config": config, "topology": sizes}
    return _described(topology, "cuda", "gpu", options)


def _described(topology: Topology, platform: str, name: str, options: dict[str, Any]) -> list[Any]:
    from jax.experimental import topologies

    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    try:
        found = topologies.get_topology_desc(platform=platform, topology_name=name, **options)
    except Exception as error:  # a plugin's own kind
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        missing = not any(importlib.util.find_spec(module) for module in COMPILERS[platform])
        hint = f"its compiler is not installed: {INSTALL[platform]}" if missing else reason
        raise ValueError(f"topology {topology.name!r}: {hint}") from error
    devices = list(found.devices)
    if len(devices) != topology.num_devices:
        raise ValueError(
            f"topology {topology.name!r}: the compiler has {len(devices)} devices, want {topology.num_devices}"
        )
    return devices
