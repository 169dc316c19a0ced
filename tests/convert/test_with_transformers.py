"""transformers' own Chameleon as the oracle: its random models are read, and it reads what is exported for it."""

import json
from pathlib import Path

import numpy as np
import pytest

from lumina_jax import Lumina
from lumina_jax.convert.layouts import open_weights
from lumina_jax.convert.tensor_files import open_tensors
from lumina_jax.convert.write_tensors import write_folder

pytestmark = pytest.mark.torch

VQ = {
    "embed_dim": 16,
    "num_embeddings": 8192,
    "latent_channels": 16,
    "base_channels": 32,
    "channel_multiplier": [1, 1, 2, 2, 2],
    "num_res_blocks": 1,
    "double_latent": False,
}
SIZES = {  # as the released models, small: pre-norm; swin norm with four shards and grouped queries
    "7b": {"num_attention_heads": 4, "num_key_value_heads": 4, "swin_norm": False},
    "34b": {"num_attention_heads": 16, "num_key_value_heads": 4, "swin_norm": True},
}
SHARDS = {"7b": 1, "34b": 4}


@pytest.fixture(params=SIZES)
def random_model(request, golden_tokenizer, tmp_path: Path):
    """A random Chameleon of transformers 5 in float32, saved with the golden tokenizer; its norms are per shard."""
    torch = pytest.importorskip("torch")
    from transformers import ChameleonConfig, ChameleonForConditionalGeneration

    torch.manual_seed(0)
    names = {
        "<image>" if name == "<reserved08707>" else name: i
        for name, i in golden_tokenizer.names.items()
    }
    config = ChameleonConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        vocab_size=16774,
        model_parallel_size=SHARDS[request.param],
        vocabulary_map=names,
        vq_config=VQ,
        **SIZES[request.param],
    )
    model = ChameleonForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name and "vqmodel" not in name:
                weight.add_(0.3 * torch.randn_like(weight))
            if "q_norm" in name or "k_norm" in name:
                each = len(weight) // SHARDS[request.param]
                weight.copy_(weight[::each].repeat_interleave(each, 0))
    folder = tmp_path / "transformers"
    model.save_pretrained(folder, max_shard_size="2MB")
    golden_tokenizer.save(folder)
    return model, folder


def logits_of(model, ids: np.ndarray) -> np.ndarray:
    """Float32 logits by transformers; it puts the lowest number on image codes, which we do not."""
    import torch

    with torch.no_grad():
        hidden = model.model(input_ids=torch.from_numpy(ids)).last_hidden_state
        return model.lm_head(hidden).numpy()


def random_ids() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 16774, (2, 19))


def test_transformers_model_gives_the_same_logits(random_model, convert, tmp_path):
    """Several shards of safetensors with an index, q/k norms a head, no VQGAN decoder."""
    model, folder = random_model
    assert (folder / "model.safetensors.index.json").is_file()
    said = convert(folder, tmp_path / "ours")
    assert "transformers' layout" in said and "without a decoder" in said
    ours = Lumina.load(tmp_path / "ours")
    ids = random_ids()
    np.testing.assert_allclose(ours.logits(ids), logits_of(model, ids), rtol=0, atol=1e-4)
    shards = ours.config.transformer.qk_norm_shards
    assert shards == model.config.model_parallel_size


def test_transformers_encoder_gives_the_same_codes(random_model, convert, tmp_path):
    """Of the same pixels; decoding says what is missing."""
    import torch

    model, folder = random_model
    convert(folder, tmp_path / "ours")
    ours = Lumina.load(tmp_path / "ours")
    image = np.random.default_rng(1).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image).float().permute(2, 0, 1)[None] / 255 * 2 - 1
    with torch.no_grad():
        encoded = model.model.vqmodel.encode(pixels)
    theirs = encoded.image_tokens.numpy().ravel()
    ids = ours.encode_image(image)
    codes = ids[ours.tokenizer.vocab.is_code(ids)] - ours.tokenizer.vocab.first_code_id
    assert (codes == theirs).mean() >= 0.999
    with pytest.raises(ValueError, match="no decoder"):
        ours.decode_image(ids)


def test_transformers_reads_what_is_exported_and_gives_the_same_logits(
    random_model, convert, tmp_path
):
    """transformers -> ours -> transformers: the same tensors, the same logits, and its processor."""
    from transformers import AutoProcessor, ChameleonForConditionalGeneration

    model, folder = random_model
    convert(folder, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back", "--to", "transformers")
    before, back = open_weights(folder), open_tensors(tmp_path / "back" / "model.safetensors")
    assert before.nbytes > 0
    state = model.state_dict()
    assert state.keys() == back.keys()
    for key, tensor in back.items():
        np.testing.assert_array_equal(tensor.read(), state[key].numpy(), err_msg=key)
    loaded, report = ChameleonForConditionalGeneration.from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ids = random_ids()
    np.testing.assert_array_equal(logits_of(loaded.eval(), ids), logits_of(model, ids))
    ours = Lumina.load(tmp_path / "ours")
    processor = AutoProcessor.from_pretrained(tmp_path / "back")
    text = "Describe the image in detail."
    theirs = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert theirs == ours.tokenizer.encode(text)
    assert processor.image_token_id == ours.tokenizer.names["<reserved08707>"]


def test_golden_release_gives_the_same_logits_in_transformers(
    golden, golden_release, convert, tmp_path
):
    """Meta's files -> ours -> transformers: what the original computed from Meta's files."""
    pytest.importorskip("torch")
    import torch
    from transformers import ChameleonForConditionalGeneration

    convert(golden_release("meta"), tmp_path / "ours")
    said = convert(tmp_path / "ours", tmp_path / "hf", "--to", "transformers")
    assert "left out: the VQGAN's decoder" in said
    model = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    logits = logits_of(model.eval(), golden["logits_ids"].astype(np.int64))
    np.testing.assert_allclose(logits[:, [0, 9, 18, 27, 36]], golden["logits"], rtol=0, atol=1e-4)


def test_torch_reads_metas_files_as_written(golden_release, convert, tmp_path):
    """consolidated*.pth by torch.load, mapped and with weights only; vqgan.ckpt under state_dict."""
    torch = pytest.importorskip("torch")

    source = golden_release("meta")
    convert(source, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "meta", "--to", "meta")
    for path in sorted(source.glob("consolidated*.pth")):
        before = torch.load(path, weights_only=True)
        after = torch.load(tmp_path / "meta" / path.name, weights_only=True, mmap=True)
        assert before.keys() - after.keys() <= {"rope.freqs"}
        assert all(torch.equal(after[key], before[key]) for key in after)
    vq = torch.load(tmp_path / "meta" / "tokenizer" / "vqgan.ckpt", weights_only=True)["state_dict"]
    before = torch.load(source.parent / "tokenizer" / "vqgan.ckpt", weights_only=True)["state_dict"]
    assert (
        all(torch.equal(vq[key], before[key]) for key in vq) and "quantize.embedding.weight" in vq
    )


def test_anole_files_are_told_by_their_norms(golden, golden_release, convert, tmp_path):
    """transformers' keys, one norm row, adjacent pairs, a .bin file: the same logits."""
    torch = pytest.importorskip("torch")

    if golden.name != "tiny_7b":
        pytest.skip("Anole is a 7B")
    source = golden_release("meta")
    meta = torch.load(source / "consolidated.pth", weights_only=True)
    names = {
        "tok_embeddings": "model.embed_tokens", "output": "lm_head", "norm": "model.norm",
        "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
        "attention.q_normalization": "self_attn.q_norm", "attention.k_normalization": "self_attn.k_norm",
        "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }  # fmt: skip
    renamed = {}
    for key, tensor in meta.items():
        stem, _, kind = key.rpartition(".")
        layer, _, inner = (
            stem.partition(".")[2].partition(".") if stem.startswith("layers.") else ("", "", stem)
        )
        if key != "rope.freqs":
            prefix = f"model.layers.{layer}." if layer else ""
            renamed[f"{prefix}{names[inner]}.{kind}"] = tensor
    anole = source.parent / "anole"
    anole.mkdir()
    torch.save(renamed, anole / "pytorch_model.bin")
    config = json.loads((golden.path / "hf" / "config.json").read_text())
    (anole / "config.json").write_text(json.dumps(config))
    said = convert(anole, tmp_path / "ours", "--compute-dtype", "float32")
    assert "Anole's layout" in said and "rotary pairs" in said
    logits = Lumina.load(tmp_path / "ours").logits(golden["logits_ids"])
    np.testing.assert_allclose(logits[:, [0, 9, 18, 27, 36]], golden["logits"], rtol=0, atol=1e-4)


def test_pairs_that_cannot_be_told_are_told_by_a_flag(golden, golden_release, convert, tmp_path):
    """Lumina-mGPT's shapes with Meta's order of rows."""
    source = golden_release("hf")
    from lumina_jax.convert.forms import pairs_from_halves
    from lumina_jax.convert.tables import LAYER

    stored = open_tensors(source / "model.safetensors")
    rotary = {
        rule.hf_key.format(i=i): rule.form
        for rule in LAYER.values()
        if rule.rotary
        for i in range(9)
    }
    head_size = stored["model.layers.0.self_attn.q_norm.weight"].shape[1]

    def read(key: str) -> np.ndarray:
        array = stored[key].read()
        return pairs_from_halves(rotary[key], array, head_size) if key in rotary else array

    paired = source.parent / "paired"
    write_folder(paired, {key: (t.shape, t.dtype) for key, t in stored.items()}, read)
    (paired / "config.json").write_text((source / "config.json").read_text())
    options = ["--compute-dtype", "float32", "--rotary", "pairs"]
    convert(paired, tmp_path / "ours", *options)
    logits = Lumina.load(tmp_path / "ours").logits(golden["logits_ids"])
    np.testing.assert_allclose(logits[:, [0, 9, 18, 27, 36]], golden["logits"], rtol=0, atol=1e-4)
