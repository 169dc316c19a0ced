"""Accelerators by name: memory, rates and links of one chip, as its maker's data sheet has them.

The one table of such facts: `mfu` in the log, ahead-of-time plans and benchmarks read it. Sources:

- TPUs: cloud.google.com/tpu/docs, one page each (v4, v5e, v5p, v6e). "Bidirectional ICI bandwidth per chip", 400, 1200
  and 800 GB/s over 4, 6 and 4 ports, is halved and divided by the ports. Data-centre network: v5e 6.4 Tbit/s a pod of
  256, v6e 4 NICs of 200 Gbit/s a host of 8, v5p 50 Gbit/s a chip; none is told of a v4. Of a v4's ICI, 6 links of 50
  GB/s: Jouppi et al., "TPU v4: An Optically Reconfigurable Supercomputer", ISCA 2023, table 4.
  v4i ("TPU v4 lite"): Jouppi et al., "Ten Lessons From Three Generations", ISCA 2021, table 1.
- GPUs: NVIDIA's data sheets of the A100 (40 and 80 GB), H100, H200; rates halved where they count sparsity; SXM
  modules where the name says no more. NVLink: half of the total of both directions, of PCIe cards by their bridges.
  Network: one NIC a GPU, as in NVIDIA's DGX A100 (200 Gbit/s) and DGX H100 and H200 (400 Gbit/s).
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from lumina_jax.dims import pick

GB = 10**9
TERA = 1e12


class Chip(NamedTuple):
    """One device. Rates are peaks; 0 where the maker's sheet has none."""

    name: str  # on command lines
    kind: str  # how JAX's `device_kind` begins; the longest such name counts
    memory_bytes: int
    bandwidth: float  # bytes/s of its main memory
    flops: float  # FLOP/s of dense products in bfloat16
    int8: float = 0.0  # operations/s of dense products in int8
    fp8: float = 0.0  # FLOP/s of dense products in 8-bit floats
    link: float = 0.0  # bytes/s of one link to another chip, in one direction
    num_links: int = (
        0  # of a TPU, two an axis of its torus; 1 of a GPU: to the switch all GPUs of a host share
    )
    ring: int = (
        1  # of a TPU: an axis of a slice whose length is a multiple of it has its ends joined
    )
    network: float = (
        0.0  # bytes/s of the data-centre network in one direction, a chip's share of its host's
    )

    @property
    def is_gpu(self) -> bool:
        """Whether hosts, not slices, are what fast links end at."""
        return self.kind.startswith("NVIDIA")

    @property
    def has_rates(self) -> bool:
        """Whether a time can be projected: not of "cpu", whose devices stand in for others in tests."""
        return self.flops > 0


class _Ici(NamedTuple):
    """How chips of a TPU slice hang together: both ways of all links as a data sheet has them, GB/s; see `Chip`."""

    gigabytes: float
    num_links: int
    ring: int
    network_gbits: float  # a chip


def _tpu(
    name: str, kind: str, gigabytes: int, bandwidth: float, tflops: float, int8: float, ici: _Ici
) -> Chip:
    rates = (bandwidth * GB, tflops * TERA, int8 * TERA, 0.0)
    link = ici.gigabytes * GB / 2 / max(ici.num_links, 1)
    network = ici.network_gbits * GB / 8
    return Chip(name, kind, gigabytes * GB, *rates, link, ici.num_links, ici.ring, network)


def _gpu(
    name: str, kind: str, gigabytes: int, bandwidth: float, tflops: float, nvlink: float, nic: float
) -> Chip:
    """`nvlink`: both ways, GB/s; `nic`: Gbit/s. In int8, and but for the A100 in fp8, a GPU is twice as fast."""
    fp8 = 0.0 if name.startswith("a100") else 2 * tflops * TERA
    rates = (bandwidth * GB, tflops * TERA, 2 * tflops * TERA, fp8)
    return Chip(name, kind, gigabytes * GB, *rates, nvlink * GB / 2, 1, 1, nic * GB / 8)


CHIPS = (
    _tpu("v4i", "TPU v4 lite", 8, 614, 138, 138, _Ici(0, 0, 1, 0)),
    _tpu("v4", "TPU v4", 32, 1228, 275, 275, _Ici(600, 6, 4, 0)),
    _tpu("v5e", "TPU v5 lite", 16, 819, 197, 394, _Ici(400, 4, 16, 25)),
    _tpu("v5p", "TPU v5", 95, 2765, 459, 918, _Ici(1200, 6, 4, 50)),
    _tpu("v6e", "TPU v6", 32, 1640, 918, 1836, _Ici(800, 4, 16, 100)),
    _gpu("a100", "NVIDIA A100-SXM4-80GB", 80, 2039, 312, 600, 200),
    _gpu("a100-40gb", "NVIDIA A100-SXM4-40GB", 40, 1555, 312, 600, 200),
    _gpu("a100-pcie", "NVIDIA A100 80GB PCIe", 80, 1935, 312, 600, 200),
    _gpu("a100-pcie-40gb", "NVIDIA A100-PCIE-40GB", 40, 1555, 312, 600, 200),
    _gpu("h100", "NVIDIA H100", 80, 3350, 989, 900, 400),
    _gpu("h100-pcie", "NVIDIA H100 PCIe", 80, 2000, 756, 600, 400),
    _gpu("h100-nvl", "NVIDIA H100 NVL", 94, 3900, 835, 600, 400),
    _gpu("h200", "NVIDIA H200", 141, 4800, 989, 900, 400),
    _gpu("h200-nvl", "NVIDIA H200 NVL", 141, 4800, 835, 900, 400),
    Chip("cpu", "cpu", 0, 0.0, 0.0),  # a fake device, for tests
)
BY_NAME = {chip.name: chip for chip in CHIPS}
OTHER_KINDS = {"TPU v5e": "v5e", "NVIDIA A100-PCIE-80GB": "a100-pcie"}  # of other runtimes


def chip_named(name: str) -> Chip:
    """The chip of a short name such as "v5e"; ValueError with the choices for an unknown one."""
    return pick(BY_NAME, name.lower(), "accelerator")


def chip_of_kind(device_kind: str) -> Chip | None:
    """The chip that JAX calls `device_kind`; None for one that is not here and for a part of a GPU (MIG)."""
    if "MIG" in device_kind:
        return None
    kinds = {chip.kind: chip for chip in CHIPS}
    kinds |= {kind: BY_NAME[name] for kind, name in OTHER_KINDS.items()}
    return kinds.get(_longest_beginning(device_kind, kinds))


def chip_of(device: Any) -> Chip | None:
    """`chip_of_kind` of one of JAX's devices."""
    return chip_of_kind(device.device_kind)


def _longest_beginning(text: str, names: Iterable[str]) -> str:
    return max((name for name in names if text.startswith(name)), key=len, default="")
