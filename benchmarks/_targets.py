"""Machines to compile for without having them: their chips' memories, and their devices as compilers know them."""

from typing import Any, NamedTuple

import numpy as np


class Chip(NamedTuple):
    """One device; sizes and rates of its maker's data sheet."""

    memory_bytes: int
    bandwidth: float  # bytes/s of its main memory
    gpu: tuple[int, int, str] | None = None  # (bytes of memory, of level 2 cache; its name)


class Target(NamedTuple):
    """A preset on one machine, all chips or the first few of it."""

    preset: str
    chip: Chip
    topology: str
    num_chips: int


V5E, V6E = Chip(16 * 10**9, 819e9), Chip(32 * 10**9, 1640e9)
V5P = Chip(95 * 10**9, 2765e9)
H100 = Chip(80 * 10**9, 3.35e12, (84942979072, 52428800, "NVIDIA H100 80GB HBM3"))

TARGETS = {
    "7b v6e-1": Target("7b", V6E, "v6e:1x1", 1),
    "7b v5p-1": Target("7b", V5P, "v5:2x2x1", 1),
    "7b v5e-4": Target("7b", V5E, "v5e:2x2", 4),
    "34b v5e-8": Target("34b", V5E, "v5e:2x4", 8),
    "34b v6e-8": Target("34b", V6E, "v6e:2x4", 8),
    "7b H100": Target("7b", H100, "1x1x1", 1),
    "34b H100-8": Target("34b", H100, "1x1x8", 8),
}

# What XLA asks about a Hopper GPU (its GpuTargetConfigProto), by NVIDIA's numbers.
GPU = """
gpu_device_info {{
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  name: "{name}" device_vendor: "NVIDIA Corporation" device_address_bits: 64 ecc_enabled: true
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  device_memory_size: {memory} memory_bandwidth: {bandwidth} l2_cache_size: {cache}
  driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{name}"
"""


def devices(target: Target) -> list[Any]:
    """The target's devices. Raises RuntimeError or ValueError where its compiler is not installed."""
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if target.chip.gpu is not None:
        memory, cache, name = target.chip.gpu
        numbers = {"memory": memory, "cache": cache, "name": name}
        numbers["bandwidth"] = int(target.chip.bandwidth)
        options = {"target_config": GPU.format(**numbers), "topology": target.topology}
        found = topologies.get_topology_desc(platform="cuda", topology_name="gpu", **options)
        return list(found.devices[: target.num_chips])
    if np.prod([int(n) for n in target.topology.split(":")[1].split("x")]) == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]
    name = target.topology
    found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    return list(found.devices[: target.num_chips])
