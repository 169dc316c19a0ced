"""The arithmetic of a step, against a count of every product by hand."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from lumina_jax.config import TransformerConfig
from lumina_jax.experiment import LoraConfig, MeshConfig
from lumina_jax.model.params import abstract_params
from lumina_jax.model.presets import PRESETS
from lumina_jax.sharding import make_layout
from lumina_jax.train import flops
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.flops import batch_flops, peak_flops, train_flops
from lumina_jax.train.trainees import make_trainee

L, D, N, K, H, F, V = 2, 16, 4, 2, 8, 24, 50
CONFIG = TransformerConfig(L, D, N, K, H, F, V)


def by_hand(lengths: list[int]) -> float:
    """Products of activations and weights, and of queries with each key that they see; forward, and twice that back."""
    flops = 0
    for length in lengths:
        heads_in = 2 * length * D * (N + K + K) * H
        heads_out = 2 * length * N * H * D
        mlp = 3 * 2 * length * D * F
        attention = sum(2 * 2 * N * H * seen for seen in range(1, length + 1))
        flops += L * (heads_in + heads_out + mlp + attention) + 2 * length * D * V
    return 3.0 * flops


def test_flops_of_a_packed_batch_equal_a_count_by_hand():
    segments = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]], np.int32)
    positions = np.array([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]], np.int32)
    norms = (
        6.0 * 11 * (L * (2 * D + 4 * H) + D)
    )  # their weights count too, a ten-thousandth of a 7B
    found = batch_flops(CONFIG, {"segment_ids": segments, "positions": positions})
    assert found == pytest.approx(by_hand([3, 2, 6]) + norms, rel=1e-12)


def test_7b_takes_the_usual_six_flops_a_weight_and_token():
    config = PRESETS["7b"].transformer
    per_token = train_flops(config, 1, 0)
    assert per_token == pytest.approx(6 * 6.77e9, rel=0.01)
    of_4096 = train_flops(config, 4096, 4096 * 4097 / 2) / 4096
    assert of_4096 - per_token == pytest.approx(6 * 32 * 4096 * 4096, rel=1e-3)


def test_the_frozen_base_of_adapters_takes_four_flops_a_weight_and_token():
    """Forward 2, back to its inputs 2, none for gradients of its own; adapters take 6, attention what it takes."""
    rank = 3
    lora = LoraConfig(rank, targets=("q", "down"))
    adapters = L * rank * (D + N * H + F + D)
    wanted = train_flops(CONFIG, 7, 0) * 4 / 6 + 6 * 7 * adapters
    assert train_flops(CONFIG, 7, 0, lora) == pytest.approx(wanted, rel=1e-12)
    assert train_flops(CONFIG, 0, 5, lora) == train_flops(CONFIG, 0, 5) > 0


def test_a_run_of_adapters_counts_its_base_as_frozen(tiny_run, tiny_assets: Path):
    run = tiny_run(lora=LoraConfig(rank=2))
    trainee = make_trainee(
        run, Curriculum(run.train.stages), make_layout(MeshConfig()), tiny_assets
    )
    batch = {name: np.ones((1, 4), np.int32) for name in ("segment_ids", "positions")}
    assert trainee.flops is not None
    found = trainee.flops(batch)
    assert found == batch_flops(run.model.transformer, batch, run.train.lora)
    assert found < batch_flops(run.model.transformer, batch)


def test_weights_are_counted_once_a_model(monkeypatch: pytest.MonkeyPatch):
    """Every step asks for the FLOPs of its batch; the tree of weights is walked for the first alone."""
    config, asked = TransformerConfig(1, 16, 4, 2, 8, 24, 51), []
    monkeypatch.setattr(flops, "abstract_params", lambda c: asked.append(c) or abstract_params(c))
    assert train_flops(config, 1, 0) == train_flops(config, 1, 0) and asked == [config]


def device(kind: str) -> SimpleNamespace:
    return SimpleNamespace(device_kind=kind)


@pytest.mark.parametrize(
    ("kind", "tflops"),
    [
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
    ],
)
def test_peaks_go_by_the_device_s_name(kind: str, tflops: float):
    assert peak_flops([device(kind)] * 4) == 4e12 * tflops


def test_peak_of_an_unknown_device_is_none_unless_told():
    assert peak_flops(jax.devices()) is None
    assert peak_flops([device("NVIDIA H100 80GB HBM3 MIG 1g.10gb")]) is None  # a part of one
    assert peak_flops([device("abacus")] * 2, tflops=1.5) == 3e12
