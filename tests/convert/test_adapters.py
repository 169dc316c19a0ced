"""Adapters in PEFT's format: there and back, into converted weights, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax import Lumina
from lumina_jax.convert import adapters as adapters_module
from lumina_jax.convert.adapters import CONFIG, WEIGHTS, read_adapter, write_adapter
from lumina_jax.convert.layouts import open_weights
from lumina_jax.convert.tensor_files import open_tensors
from lumina_jax.experiment import LORA_TARGETS, LoraConfig
from lumina_jax.model.chameleon import forward
from lumina_jax.model.lora import adapted, adapter_shapes
from lumina_jax.model.params import stack_layers

FLOAT32 = ("--dtype", "float32", "--compute-dtype", "float32")
LORA = LoraConfig(rank=3, alpha=6.0, targets=LORA_TARGETS, dropout=0.1)


def random_adapters(config: Any, lora: LoraConfig = LORA, std: float = 0.1) -> Any:
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda shape: (std * rng.standard_normal(shape)).astype(np.float32),
        adapter_shapes(config, lora),
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def same(first: Any, second: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.fixture
def config(tiny_34b_checkpoint: Path) -> Any:
    return open_weights(tiny_34b_checkpoint).config.transformer


def test_adapters_come_back_as_written_stacked_or_not(config, tmp_path: Path):
    adapters = random_adapters(config)
    write_adapter(tmp_path / "a", adapters, config, LORA)
    lora, found = read_adapter(tmp_path / "a", config)
    assert lora == LORA
    same(found, adapters)
    stacked = replace(config, scan_layers=True)
    write_adapter(tmp_path / "b", stack_layers(adapters), stacked, LORA)
    same(read_adapter(tmp_path / "b", stacked)[1], adapters)
    files = [tmp_path / name / "adapter_model.safetensors" for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_config_of_an_adapter_is_written_last(config, tmp_path: Path, monkeypatch):
    """A kill leaves no folder that looks whole."""

    def killed(*_: Any) -> None:
        raise InterruptedError

    monkeypatch.setattr(adapters_module, "write_json", killed)
    with pytest.raises(InterruptedError):
        write_adapter(tmp_path, random_adapters(config), config, LORA)
    assert [file.name for file in tmp_path.iterdir()] == [WEIGHTS]


@pytest.mark.slow
def test_conversion_merges_an_adapter(config, tiny_34b_checkpoint, convert, tmp_path: Path):
    """As the sum in float32 of base and product, in the base's dtype; nothing else changes."""
    adapters, base = random_adapters(config), open_weights(tiny_34b_checkpoint).tree("transformer")
    write_adapter(tmp_path / "adapter", adapters, config, LORA)
    said = convert(tiny_34b_checkpoint, tmp_path / "merged", "--adapter", tmp_path / "adapter")
    assert "rank 3, on q, k, v, o, gate, up, down" in said
    merged = open_weights(tmp_path / "merged").tree("transformer")
    for name, spec in (("q", "DA,ANH->DNH"), ("o", "NHA,AD->NHD"), ("down", "FA,AD->FD")):
        before, pair = base["layers"]["01"][name], adapters["layers"]["01"][name]
        wanted = before.astype(np.float32) + 2.0 * np.einsum(spec, pair["a"], pair["b"])
        found = merged["layers"]["01"][name]
        assert found.dtype == before.dtype
        np.testing.assert_allclose(found.astype(np.float32), wanted, rtol=2**-8, atol=1e-6)
    assert (merged["layers"]["00"]["up"] != base["layers"]["00"]["up"]).any()
    np.testing.assert_array_equal(merged["head"]["table"], base["head"]["table"])


REFUSED = {
    "dora": ({"use_dora": True}, "use_dora True: only plain LoRA is read"),
    "kind": ({"peft_type": "IA3"}, "peft_type 'IA3'"),
    "ranks": ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
    "targets": ({"target_modules": ["q_proj", "lm_head"]}, "want some of q_proj, k_proj"),
    "fewer": (
        {"target_modules": ["q_proj"]},
        "has, unknown to us, base_model.model.model.layers.0.mlp",
    ),
    "rank": ({"r": 4}, "lora_A.weight is .3, "),
    "no rank": ({"r": None}, "not a PEFT adapter's config"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_adapter_of_this_model_is_one_clear_error(case, config, tmp_path: Path):
    changes, message = REFUSED[case]
    write_adapter(tmp_path, random_adapters(config), config, LORA)
    content = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**content, **changes}))
    with pytest.raises(ValueError, match=message):
        read_adapter(tmp_path, config)


def test_a_missing_adapter_is_one_clear_error(config, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="adapter_config.json"):
        read_adapter(tmp_path / "nowhere", config)


def test_a_scale_by_the_root_of_the_rank_is_understood(config, tmp_path: Path):
    write_adapter(tmp_path, random_adapters(config), config, LORA)
    content = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**content, "use_rslora": True}))
    lora, _ = read_adapter(tmp_path, config)
    assert lora.alpha / lora.rank == pytest.approx(6.0 / 3**0.5)


@pytest.mark.torch
def test_transformers_with_our_adapter_gives_our_logits(
    golden, golden_release, convert, tmp_path: Path
):
    """Base exported to transformers: with PEFT around it, and merged by us, the same logits; PEFT's own files read."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from transformers import ChameleonForConditionalGeneration

    def logits_of(model: Any, lm_head: Any, ids: np.ndarray) -> np.ndarray:
        """transformers puts the lowest number on image codes, which we do not."""
        with torch.no_grad():
            return lm_head(model(input_ids=torch.from_numpy(ids)).last_hidden_state).numpy()

    def load(folder: Path) -> Any:
        found = ChameleonForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        return found.eval()

    convert(golden_release("meta"), tmp_path / "base", *FLOAT32)
    ours = Lumina.load(tmp_path / "base")
    config, ids = ours.config.transformer, golden["logits_ids"].astype(np.int64)
    adapters = random_adapters(config)
    write_adapter(tmp_path / "adapter", adapters, config, LORA)
    convert(tmp_path / "base", tmp_path / "hf", "--to", "transformers")
    model = peft.PeftModel.from_pretrained(load(tmp_path / "hf"), tmp_path / "adapter").eval()
    base = open_weights(tmp_path / "base").tree("transformer")
    params = adapted(base, adapters, config, LORA)
    wanted = np.asarray(forward(params, config, jnp.asarray(ids, jnp.int32))[0])
    inner = model.base_model.model
    found = logits_of(inner.model, inner.lm_head, ids)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    assert np.abs(found - ours.logits(ids)).max() > 0.05

    convert(
        tmp_path / "base", tmp_path / "merged", "--to", "transformers", "--adapter", tmp_path / "adapter"
    )  # fmt: skip
    merged = load(tmp_path / "merged")
    np.testing.assert_allclose(
        logits_of(merged.model, merged.lm_head, ids), wanted, rtol=0, atol=1e-4
    )

    model.save_pretrained(tmp_path / "theirs")
    lora, back = read_adapter(tmp_path / "theirs", config)
    assert lora == LORA
    same(back, adapters)
    stored = open_tensors(tmp_path / "theirs" / "adapter_model.safetensors")
    assert stored.keys() == open_tensors(tmp_path / "adapter" / "adapter_model.safetensors").keys()
