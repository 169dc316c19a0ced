"""What XLA is told when it compiles a training step: one table by chip, of what hides collectives behind products.

Sources: [M] MaxText's flag library (benchmarks/xla_flags_library.py, there in LIBTPU_INIT_ARGS), [J] JAX's GPU
performance tips (docs.jax.dev, gpu_performance_tips), [T] NVIDIA's JAX-Toolbox. Given to `jax.jit(compiler_options=)`
they hold for one program, not for the process. That compilers know each of them is tested; what each gains depends on
the model and the machine: where it matters, measure without.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from lumina_jax.chips import chip_of_kind

Value = bool | str  # as jax.jit takes them; whole numbers as text


class Option(NamedTuple):
    """One option of XLA or libtpu."""

    name: str
    value: Value
    chips: tuple[str, ...]
    reason: str


TPUS = ("v4", "v5e", "v5p", "v6e")
MEGACORE = ("v4", "v5p")  # two cores that act as one device
GPU = ("gpu",)
MIB = 2**20

OPTIONS: tuple[Option, ...] = (
    Option(
        "xla_tpu_enable_async_collective_fusion",
        True,
        TPUS,
        "collectives run inside the fusions of products beside them [M]",
    ),
    Option(
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather",
        True,
        ("v5e",),
        "the gathering of FSDP's weights too [M]; libtpu refuses it for other generations",
    ),
    Option(
        "xla_enable_async_all_reduce", True, ("v5e",), "sums of gradients start early, end late [M]"
    ),
    Option(
        "xla_tpu_enable_async_collective_fusion_fuse_all_reduce",
        True,
        ("v5e",),
        "and run inside the fusions of products beside them [M]",
    ),
    Option(
        "xla_jf_crs_combiner_threshold_count",
        "1",
        ("v5e",),
        "each by itself: combined ones end with the last gradient, when no product is left to hide them (seen in "
        "programs compiled ahead of time, docs/benchmarks.md)",
    ),
    *(
        Option(
            f"xla_tpu_enable_sparse_core_collective_offload_{kind}",
            True,
            ("v5p", "v6e"),
            "SparseCores gather weights and sum gradients beside the products [M]",
        )
        for kind in ("all_gather", "reduce_scatter", "all_reduce")
    ),
    Option(
        "xla_tpu_enable_async_collective_fusion_multiple_steps",
        True,
        TPUS,
        "one collective may span several fusions [M]",
    ),
    Option(
        "xla_tpu_overlap_compute_collective_tc",
        True,
        TPUS,
        "products and collectives share a tensor core [M]",
    ),
    Option(
        "xla_enable_async_all_gather", True, TPUS, "gathers start early and are awaited late [M]"
    ),
    Option(
        "xla_enable_async_collective_permute",
        True,
        TPUS,
        "the same for the steps that XLA splits a collective into [M]",
    ),
    Option(
        "xla_tpu_enable_data_parallel_all_reduce_opt",
        True,
        TPUS,
        "gradients are summed between slices while later layers still go back [M]",
    ),
    Option(
        "xla_tpu_data_parallel_opt_different_sized_ops",
        True,
        TPUS,
        "that for weights of different sizes too [M]",
    ),
    Option(
        "xla_tpu_enable_ag_backward_pipelining",
        True,
        TPUS,
        "a scan going back gathers the next layer's weights during this one's products [M]",
    ),
    Option(
        "xla_tpu_megacore_fusion_allow_ags",
        False,
        MEGACORE,
        "a gather fused for both cores can't be asynchronous [M]",
    ),
    Option(
        "xla_tpu_scoped_vmem_limit_kib",
        "98304",
        ("v6e",),
        "of 128 MiB of vector memory a fusion may use 96: larger tiles for dense layers [M]",
    ),
    Option(
        "xla_gpu_enable_latency_hiding_scheduler",
        True,
        GPU,
        "the schedule starts collectives early and awaits them late [J]",
    ),
    Option(
        "xla_gpu_enable_pipelined_all_gather",
        True,
        GPU,
        "a scan gathers the next layer's weights during this one's products [J]",
    ),
    Option("xla_gpu_enable_pipelined_reduce_scatter", True, GPU, "the same for gradients [J]"),
    Option("xla_gpu_enable_pipelined_all_reduce", True, GPU, "the same for sums [J]"),
    Option(
        "xla_gpu_enable_while_loop_double_buffering",
        True,
        GPU,
        "two layers a turn of the loop, so that what is pipelined isn't copied [J]",
    ),
    Option(
        "xla_gpu_all_gather_combine_threshold_bytes",
        str(128 * MIB),
        GPU,
        "few large messages: a layer's gathers together [T]",
    ),
    Option(
        "xla_gpu_all_reduce_combine_threshold_bytes", str(128 * MIB), GPU, "the same for sums [T]"
    ),
    Option(
        "xla_gpu_reduce_scatter_combine_threshold_bytes",
        str(64 * MIB),
        GPU,
        "the same for gradients [T]",
    ),
    Option(
        "xla_gpu_enable_triton_gemm", False, GPU, "large dense products are cuBLAS's to do [J, T]"
    ),
)


def compiler_options(devices: Iterable[Any]) -> dict[str, Value] | None:
    """The options for a training step on `devices` (a mesh's `devices`, or any of JAX's), None where there are none.

    A generation of TPU that the table doesn't name gets what all named ones share.
    """
    device = next(iter(getattr(devices, "flat", devices)))
    if device.platform == "tpu":
        chip = chip_of_kind(device.device_kind)
        chips = TPUS if chip is None or chip.name not in TPUS else (chip.name,)
    else:
        chips = ("gpu",) if device.platform in ("gpu", "cuda", "rocm") else ("none",)
    found = {row.name: row.value for row in OPTIONS if {*chips} <= {*row.chips}}
    return found or None
