"""Arithmetic and memory traffic of a step, against closed forms."""

from dataclasses import replace

import pytest

from lumina_jax.config import TransformerConfig
from lumina_jax.experiment import LoraConfig, MeshConfig
from lumina_jax.model.params import abstract_params, count_params
from lumina_jax.model.presets import PRESETS
from lumina_jax.plan.costs import (
    REMATS,
    hardware_flops,
    mask_bytes,
    model_flops,
    sizes,
    state_bytes,
    traffic,
)
from lumina_jax.plan.split import plan_layout
from lumina_jax.plan.step import Step
from lumina_jax.train.flops import train_flops

L, D, N, K, H, F, V = 2, 16, 4, 2, 8, 24, 64
CONFIG = TransformerConfig(L, D, N, K, H, F, V, compute_dtype="bfloat16", scan_layers=True)
NORMS = 2 * D + 4 * H  # of a layer
ATTENTION, MLP = D * H * (2 * N + 2 * K), 3 * D * F
STEP = Step(CONFIG, rows=8, columns=32)
TOKENS, PAIRS = 8 * 32, 8 * 32 * 33 / 2


def remat(name: str, **changes) -> Step:
    return STEP._replace(config=replace(CONFIG, remat=name, **changes))


@pytest.mark.parametrize("preset", ["7b", "34b", "scenes"])
def test_sizes_add_up_to_the_model(preset: str) -> None:
    config = PRESETS[preset].transformer
    assert sizes(config).total(config.num_layers) == count_params(abstract_params(config))


def test_sizes_by_place() -> None:
    assert sizes(CONFIG) == (ATTENTION + MLP + NORMS, V * D, V * D, D)
    assert sizes(replace(CONFIG, scan_layers=False)) == sizes(CONFIG)


def test_model_flops_are_of_records_and_of_what_is_no_padding() -> None:
    assert model_flops(STEP) == train_flops(CONFIG, TOKENS, PAIRS)
    halves = STEP._replace(records_per_row=2, filled=0.75)
    length = 32 * 0.75 / 2
    assert model_flops(halves) == train_flops(CONFIG, TOKENS * 0.75, 16 * length * (length + 1) / 2)


def test_hardware_flops_without_recomputation() -> None:
    """Products as the model's; of attention a fifth more than three forward passes, the scores again."""
    found = hardware_flops(STEP)
    assert found.products + found.gradients + found.logits == train_flops(CONFIG, TOKENS, 0)
    assert found.logits == 6 * V * D * TOKENS
    assert found.attention == L * N * H * PAIRS * 14
    assert found.total == sum(found)


@pytest.mark.parametrize(
    ("name", "products", "attention"),
    [
        ("full", ATTENTION + 2 * D * F, 1),
        ("dots", 0, 1),
        ("save_qkv", D * H * N + 2 * D * F, 1),
        ("save_attention", ATTENTION + 2 * D * F, 0),
        ("save_out_proj", D * H * (N + 2 * K) + 2 * D * F, 1),
        ("minimal", 0, 0),
        ("offload_projections", 2 * D * F, 1),
    ],
)
def test_what_each_policy_computes_again(name: str, products: int, attention: int) -> None:
    """The last product of a layer's own is needed by no gradient where no norm follows it."""
    plain, found = hardware_flops(remat("none")), hardware_flops(remat(name))
    assert found.products - plain.products == 2 * products * L * TOKENS
    assert found.attention - plain.attention == 4 * attention * L * N * H * PAIRS


def test_a_norm_after_the_branch_needs_its_last_product_again() -> None:
    plain = hardware_flops(remat("none", norm_placement="swin"))
    found = hardware_flops(remat("full", norm_placement="swin"))
    assert found.products - plain.products == 2 * (ATTENTION + MLP) * L * TOKENS


def test_logits_in_chunks_are_computed_twice() -> None:
    chunked = hardware_flops(STEP._replace(logits_chunk=16))
    assert chunked.logits == 8 * V * D * TOKENS


def test_padding_is_computed_and_not_counted() -> None:
    half = STEP._replace(filled=0.5)
    assert hardware_flops(half) == hardware_flops(STEP)
    assert model_flops(half) < 0.51 * model_flops(STEP)


def test_a_frozen_base_takes_no_gradients_of_its_own() -> None:
    lora = LoraConfig(rank=2, targets=("q",))
    found = hardware_flops(STEP._replace(lora=lora))
    assert found.logits == 4 * V * D * TOKENS
    assert found.products + found.gradients + found.logits == train_flops(CONFIG, TOKENS, 0, lora)


def test_unknown_policies_are_refused_with_the_choices() -> None:
    config = replace(CONFIG)
    object.__setattr__(config, "remat", "half")
    with pytest.raises(ValueError, match="unknown remat policy.*'half'.*full"):
        hardware_flops(STEP._replace(config=config))
    assert {"none", "full", "dots"} <= set(REMATS)


def test_state_of_one_device_is_split_as_strategies_say() -> None:
    """Of fsdp on 4 devices all but the scales of heads, which have no width, lie in quarters."""
    layout = plan_layout(MeshConfig("fsdp", (("fsdp", 4),)), 4)
    whole = 4 * L * H * 4
    total = count_params(abstract_params(CONFIG)) - 4 * H * L
    held = state_bytes(STEP._replace(average=True), layout)
    assert held == {
        "weights": total + whole,
        "moments": 2 * (total + whole),
        "average": total + whole,
    }


def test_traffic_of_the_optimizer_and_of_logits() -> None:
    """Weights and two moments read and written, gradients read twice; float32 logits seven times in chunks."""
    layout = plan_layout(MeshConfig("data", (("data", 2),)), 2)
    found = traffic(STEP._replace(logits_chunk=16), layout)
    assert found.optimizer == 4 * 8 * count_params(abstract_params(CONFIG))
    assert found.logits == 4 * 7 * (TOKENS / 2) * V
    assert traffic(STEP, layout).logits == 4 * 5 * (TOKENS / 2) * V
    assert found.total == sum(found)


def test_traffic_of_weights_grows_with_micro_batches_and_falls_with_tensor_parallelism() -> None:
    fsdp = plan_layout(MeshConfig("fsdp", (("fsdp", 4),)), 4)
    tensor = plan_layout(MeshConfig("tensor", (("tensor", 2),)), 2)
    one = traffic(STEP, fsdp)
    assert traffic(STEP._replace(accumulation=2), fsdp).weights == 2 * one.weights
    table = 2 * 4 * V * D  # the embedding's, whose columns both split, written and read in float32
    halves = (one.gradients - table / 4) / 2
    assert traffic(STEP, tensor).gradients - table / 2 == pytest.approx(halves, rel=0.05)


def test_traffic_of_activations_by_hand() -> None:
    layout = plan_layout(MeshConfig("data", (("data", 1),)), 1)
    queries, keys = N * H, K * H
    elements = 10 * D + (D + queries + 2 * keys) + (2 * queries + 2 * keys) + (queries + D)
    elements += (D + 2 * F) + 3 * F + (F + D)
    assert traffic(STEP, layout).activations == 3 * L * TOKENS * elements * 2


def test_state_and_arithmetic_of_a_trained_part() -> None:
    """Moments and gradients of what is trained, and no way back below it."""
    layout = plan_layout(MeshConfig("fsdp", (("fsdp", 4),)), 4)
    part = STEP._replace(trainable=("layers/.*/(gate|up|down)",), moment_bytes=6)
    assert state_bytes(part, layout)["moments"] == 6 * L * MLP / 4
    assert state_bytes(part, layout)["weights"] == state_bytes(STEP, layout)["weights"]
    frozen = L * (ATTENTION + NORMS) + D + V * D
    assert model_flops(STEP) - model_flops(part) == 2 * frozen * TOKENS
    head = STEP._replace(trainable=("head",), config=replace(CONFIG, remat="full"))
    found = hardware_flops(head)
    assert found.gradients == 0 and found.logits == 4 * V * D * TOKENS
    assert found.products == 2 * (L * (ATTENTION + MLP + NORMS) + D) * TOKENS
    assert found.attention == 4 * L * N * H * PAIRS
    assert model_flops(head) == found.total
    apart = replace(CONFIG, scan_layers=False)
    some = STEP._replace(config=apart, trainable=("layers/01/gate",))
    assert state_bytes(some, layout)["moments"] == 8 * D * F / 4


def test_state_of_adapters_is_split_by_their_letters() -> None:
    """Of q's factors the first, D A, lies in quarters, the second, A N H, is whole."""
    layout = plan_layout(MeshConfig("fsdp", (("fsdp", 4),)), 4)
    held = state_bytes(STEP._replace(lora=LoraConfig(rank=2, targets=("q",))), layout)
    numbers = L * (2 * D / 4 + 2 * N * H)
    assert (held["adapters"], held["moments"]) == (4 * numbers, 8 * numbers)


def test_masks_of_packed_rows_and_of_split_sequences() -> None:
    whole = plan_layout(MeshConfig("fsdp", (("fsdp", 4),)), 4)
    split = plan_layout(MeshConfig("fsdp_sequence", (("fsdp", 2), ("sequence", 2))), 4)
    packed, pairs = STEP._replace(packed=True), 8 / 4 * 32 * 33 / 2
    assert mask_bytes(STEP, whole) == 0
    assert mask_bytes(packed, whole) == 2 * (8 / 4 * 32 * 32 + L * 2 * pairs)
    assert mask_bytes(STEP, split) == 2 * (8 / 2 * 32 * 16) * (1 + 2 * L)
    again = packed._replace(config=replace(CONFIG, remat="full"))
    assert mask_bytes(again, whole) - mask_bytes(packed, whole) == 2 * L * pairs
