"""The least that devices must send each other, against closed forms and against compiled programs."""

import math
from dataclasses import replace

import pytest

from lumina_jax.config import TransformerConfig
from lumina_jax.experiment import LoraConfig, MeshConfig
from lumina_jax.model.lora import count_adapter_params
from lumina_jax.plan.costs import sizes
from lumina_jax.plan.messages import Message, messages, per_layer
from lumina_jax.plan.split import plan_layout, split_of
from lumina_jax.plan.step import Step
from lumina_jax.sharding import STRATEGIES

L, D, N, K, H, F, V = 3, 16, 4, 2, 8, 24, 64
CONFIG = TransformerConfig(
    L, D, N, K, H, F, V, compute_dtype="bfloat16", scan_layers=True, remat="full"
)
STEP = Step(CONFIG, rows=8, columns=32)
LAYER = sizes(CONFIG).layer - 4 * H  # what has a width D; head norms have none
STREAM = 8 * 32 * D * 2  # bytes of [B, S, D] in bfloat16


def found(
    strategy: str, axes: dict[str, int], step: Step = STEP, domains: int = 1
) -> list[Message]:
    mesh = MeshConfig(strategy, tuple(axes.items()))
    return messages(step, plan_layout(mesh, math.prod(axes.values())), domains)


def total(of: list[Message], **wanted: str) -> float:
    """Bytes of those whose fields are as `wanted`."""
    chosen = [m for m in of if all(getattr(m, name) == value for name, value in wanted.items())]
    return sum(m.bytes for m in chosen)


def test_fsdp_gathers_twice_and_scatters_once() -> None:
    """3 x layer bytes x (n - 1) / n, of every layer."""
    layer = per_layer(found("fsdp", {"fsdp": 4}), CONFIG)
    assert total(layer, what="weights", when="forward") == 2 * LAYER * 3 / 4
    assert total(layer, what="weights", when="backward") == 2 * LAYER * 3 / 4
    assert total(layer, kind="reduce-scatter", what="gradients") == 2 * LAYER * 3 / 4
    assert total(layer, kind="all-reduce", what="gradients") == 2 * 2 * 4 * H * 3 / 4
    assert total(layer, what="activations") == total(layer, what="keys and values") == 0


def test_micro_batches_gather_and_sum_each_for_itself() -> None:
    one, four = (found("fsdp", {"fsdp": 4}, STEP._replace(accumulation=n)) for n in (1, 4))
    assert total(four, what="weights") == 4 * total(one, what="weights")
    assert total(four, what="gradients") == 4 * total(one, what="gradients")


def test_head_is_gathered_like_a_layer_and_columns_of_the_embedding_are_exchanged() -> None:
    of = found("fsdp", {"fsdp": 4})
    table = 2 * (V * D + D)  # with the final norm
    assert total(of, where="head", what="weights") == 2 * table * 3 / 4
    assert total(of, where="head", what="gradients") == table * 3 / 4
    assert total(of, where="embedding", when="forward") == STREAM / 4 * 3 / 4
    assert total(of, where="embedding", when="backward") == STREAM / 4 * 3 / 4
    assert total(of, where="embedding", what="gradients") == 0


def test_tensor_sums_activations_twice_forward_and_twice_back() -> None:
    """And once again where the first half of a layer is recomputed, twice where a norm comes after its branches."""
    each = STREAM * 2 * 3 / 4
    for placement, again in (("pre", 1), ("swin", 2)):
        step = STEP._replace(config=replace(CONFIG, norm_placement=placement))
        layer = per_layer(found("tensor", {"tensor": 4}, step), CONFIG)
        assert total(layer, when="forward") == 2 * each
        assert total(layer, when="backward") == 2 * each
        assert total(layer, when="recomputation") == again * each
        assert total(layer, what="gradients") == total(layer, what="weights") == 0
    kept = STEP._replace(config=replace(CONFIG, remat="dots"))
    assert total(found("tensor", {"tensor": 4}, kept), when="recomputation") == 0


def test_data_sums_whole_gradients() -> None:
    of = found("data", {"data": 4})
    everything = 2 * (sizes(CONFIG).total(L) - V * D)
    embedding = 4 * V * D  # in the weights' dtype
    assert total(of, what="gradients") == (everything + embedding) * 2 * 3 / 4
    assert total(of) == total(of, what="gradients")


def test_a_data_axis_between_slices_sums_what_fsdp_has_scattered() -> None:
    """Each device sends its own part of a gradient, twice (s - 1) / s of it, over the network."""
    of = per_layer(found("data_fsdp", {"data": 2, "fsdp": 4}, domains=2), CONFIG)
    apart = [m for m in of if m.kind == "all-reduce" and m.ways == 2]
    assert [m.slow_bytes for m in apart] == [2 * (2 * LAYER / 4) / 2]
    assert all(m.fast_bytes == 0 for m in apart)
    assert sum(m.slow_bytes for m in of if m.what == "weights") == 0


def test_fsdp_over_nodes_fetches_each_byte_once_a_node() -> None:
    """n = 8 in s = 2 nodes: over the network b (s - 1) / n, in the node b (i - 1) / i; together b (n - 1) / n."""
    of = found("fsdp", {"fsdp": 8}, domains=2)
    (gather,) = [m for m in of if m.where == "layers" and m.when == "forward"]
    size = 2 * LAYER * L
    assert (gather.ways, gather.domains) == (8, 2)
    assert (gather.fast_bytes, gather.slow_bytes) == (size * 3 / 4, size / 8)
    assert gather.bytes == size * 7 / 8


def test_sequence_gathers_keys_and_values_and_scatters_their_gradients() -> None:
    layer = per_layer(found("sequence", {"sequence": 4}), CONFIG)
    both = 2 * (8 * 32 * K * H) * 2 * 3 / 4
    assert total(layer, what="keys and values", kind="all-gather", when="forward") == both
    assert total(layer, what="keys and values", when="recomputation") == both
    assert total(layer, what="keys and values", kind="reduce-scatter") == both
    assert total(layer, what="weights") == 2 * 2 * LAYER * 3 / 4  # weights are stored in parts


def test_mixed_meshes_combine() -> None:
    """Each device has a quarter of the tokens, half of heads and F: weights in halves are gathered over fsdp."""
    of = per_layer(found("fsdp_tensor", {"fsdp": 4, "tensor": 2}), CONFIG)
    norms = 2 * D  # whole over tensor
    assert total(of, what="weights", when="forward") == 2 * ((LAYER - norms) / 2 + norms) * 3 / 4
    assert total(of, what="activations", when="forward") == 2 * (STREAM / 4) * 2 * 1 / 2
    columns = [m for m in found("fsdp_tensor", {"fsdp": 4, "tensor": 2}) if m.where == "embedding"]
    assert total(columns, when="forward") == STREAM / 4 * 7 / 8
    assert total(columns, when="backward") == STREAM / 4 * 4 / 8 * 3 / 4
    pairs = found("fsdp_sequence", {"fsdp": 2, "sequence": 2})
    both = 2 * (4 * 32 * K * H) * 2 / 2 * L
    assert total(pairs, what="keys and values", when="forward") == both
    assert total(pairs, what="weights", when="forward", where="layers") == 2 * LAYER * 3 / 4 * L


def test_adapters_are_all_that_is_summed() -> None:
    """A factor with a width D is stored, gathered and scattered in parts; q's second has none and is summed whole."""
    lora = LoraConfig(rank=2, targets=("q",))
    of = found("fsdp", {"fsdp": 4}, STEP._replace(lora=lora))
    first, second = L * 2 * D * 2, L * 2 * 2 * N * H
    assert first + second == 2 * count_adapter_params(CONFIG, lora)
    assert total(of, what="gradients") == (first + 2 * second) * 3 / 4
    assert total(of, what="weights", where="layers") == 2 * (L * 2 * LAYER + first) * 3 / 4


def test_what_is_frozen_is_not_summed_and_nothing_goes_back_below_what_is_trained() -> None:
    step = STEP._replace(trainable=("layers/.*/gate",))
    of = found("fsdp", {"fsdp": 4}, step)
    assert total(of, what="gradients") == L * 2 * D * F * 3 / 4
    assert total(of, what="weights", where="layers") == L * 2 * 2 * LAYER * 3 / 4
    assert total(of, where="embedding", when="backward") == 0
    head = found("fsdp", {"fsdp": 4}, STEP._replace(trainable=("head",)))
    assert total(head, what="gradients") == 2 * V * D * 3 / 4
    assert total(head, where="layers") == L * 2 * LAYER * 3 / 4


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_device_sends_nothing(strategy: str) -> None:
    assert found(strategy, dict.fromkeys(STRATEGIES[strategy].axes, 1)) == []


def test_groups_lie_in_as_many_slices_as_the_mesh_lays_them() -> None:
    """24 devices of 4 slices of 6, filled in the order of the mesh."""
    layout = plan_layout(MeshConfig("data_fsdp", (("data", 2), ("fsdp", -1))), 24)
    split = split_of(layout)
    assert split.domains(("fsdp",), 4) == 2
    assert split.domains(("data",), 4) == 2
    assert split.domains(("data", "fsdp"), 4) == 4
    assert split.domains(("fsdp",), 1) == 1


@pytest.mark.parametrize("sizes", [(2, -1), (7, 0), (0, -1), (-1, -1)])
def test_a_mesh_that_does_not_fit_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit 7 devices"):
        plan_layout(MeshConfig("data_fsdp", (("data", sizes[0]), ("fsdp", sizes[1]))), 7)
