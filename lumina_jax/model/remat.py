"""What a layer keeps in memory for the backward pass, by name; all else is computed again (docs/training.md)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

# The names that `model.block` and the attention kernels give what they compute (`jax.ad_checkpoint.checkpoint_name`).
INPUT = "layer_input"
QKV = ("query", "key", "value")  # projections, before norm and rotation: both are cheap to do again
ATTENTION = "attention"  # the kernel's output, and the log-sums that its own backward pass reads
OUT = "out"
MLP = ("gate", "up", "down")

# cuDNN's kernel names nothing; its output and log-sums are the outputs of this primitive.
CUDNN_FORWARD = "dot_product_attention_fwd_wrapper"

Policy = Callable[..., Any]


class Remat(NamedTuple):
    """How a layer is recomputed: `policy` as `jax.checkpoint` takes it (None keeps the layer's input alone)."""

    recompute: bool
    policy: Policy | None = None


def keep(*names: str) -> Remat:
    """Keep what has one of `names`, recompute the rest."""
    by_name = jax.checkpoint_policies.save_only_these_names(*names)
    if ATTENTION not in names:
        return Remat(True, by_name)

    def policy(primitive: Any, *avals: Any, **params: Any) -> bool:
        return primitive.name == CUDNN_FORWARD or by_name(primitive, *avals, **params)

    return Remat(True, policy)


def offload(*names: str) -> Remat:
    """Move what has one of `names` to the host's memory and back, recompute the rest."""
    return Remat(
        True,
        jax.checkpoint_policies.save_and_offload_only_these_names(
            names_which_can_be_saved=(),
            names_which_can_be_offloaded=names,
            offload_src="device",
            offload_dst="pinned_host",
        ),
    )


# The names of `config.TransformerConfig.remat`; MaxText's where it has the same policy.
REMAT: Mapping[str, Remat] = {
    "none": Remat(False),
    "full": Remat(True),
    "dots": Remat(True, jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
    "save_qkv": keep(*QKV),
    "save_attention": keep(ATTENTION),
    "save_out_proj": keep(OUT),
    "minimal": keep(*QKV, ATTENTION, OUT, *MLP),
    "offload_qkv": offload(*QKV),
    "offload_projections": offload(INPUT, *QKV, OUT),
}
