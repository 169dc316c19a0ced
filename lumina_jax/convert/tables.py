"""Where each of our weights comes from: key, axis on which shards join, and how rows turn into letters.

Sources: Meta's release (facebookresearch/chameleon), Lumina-mGPT's (Alpha-VLLM/Lumina-mGPT: the keys of Hugging Face
transformers, q/k-norm rows per shard), transformers 5 (rows per head), and Anole's fork (one row, adjacent pairs).
"""

from typing import NamedTuple

from lumina_jax.convert.forms import Form, Join


class Rule(NamedTuple):
    """One weight's origin; {i} in the keys is the layer's number.

    Forms, stored shape -> ours: table [V, D]; vector [D]; heads_in [N*H, D] -> [D, N, H]; heads_out
    [D, N*H] -> [N, H, D]; matrix [out, in] -> [in, out]; head_rows [H] or [R, H] -> [R, H].
    """

    meta_key: str
    hf_key: str
    form: Form
    join: Join
    rotary: bool = False  # Meta keeps pairs adjacent, we keep halves


OUTER = {
    ("embed", "table"): Rule("tok_embeddings.weight", "model.embed_tokens.weight", "table", 1),
    ("final_norm", "scale"): Rule("norm.weight", "model.norm.weight", "vector", "mean"),
    ("head", "table"): Rule("output.weight", "lm_head.weight", "table", 0),
}

_META, _HF = "layers.{i}.", "model.layers.{i}."

LAYER = {
    ("attention_norm", "scale"): Rule(
        _META + "attention_norm.weight", _HF + "input_layernorm.weight", "vector", "mean"
    ),
    ("q",): Rule(
        _META + "attention.wq.weight", _HF + "self_attn.q_proj.weight", "heads_in", 0, rotary=True
    ),
    ("k",): Rule(
        _META + "attention.wk.weight", _HF + "self_attn.k_proj.weight", "heads_in", 0, rotary=True
    ),
    ("v",): Rule(_META + "attention.wv.weight", _HF + "self_attn.v_proj.weight", "heads_in", 0),
    ("o",): Rule(_META + "attention.wo.weight", _HF + "self_attn.o_proj.weight", "heads_out", 1),
    ("q_norm", "scale"): Rule(
        _META + "attention.q_normalization.weight",
        _HF + "self_attn.q_norm.weight",
        "head_rows",
        "stack",
        rotary=True,
    ),
    ("q_norm", "bias"): Rule(
        _META + "attention.q_normalization.bias",
        _HF + "self_attn.q_norm.bias",
        "head_rows",
        "stack",
        rotary=True,
    ),
    ("k_norm", "scale"): Rule(
        _META + "attention.k_normalization.weight",
        _HF + "self_attn.k_norm.weight",
        "head_rows",
        "stack",
        rotary=True,
    ),
    ("k_norm", "bias"): Rule(
        _META + "attention.k_normalization.bias",
        _HF + "self_attn.k_norm.bias",
        "head_rows",
        "stack",
        rotary=True,
    ),
    ("mlp_norm", "scale"): Rule(
        _META + "ffn_norm.weight", _HF + "post_attention_layernorm.weight", "vector", "mean"
    ),
    ("gate",): Rule(_META + "feed_forward.w1.weight", _HF + "mlp.gate_proj.weight", "matrix", 0),
    ("up",): Rule(_META + "feed_forward.w3.weight", _HF + "mlp.up_proj.weight", "matrix", 0),
    ("down",): Rule(_META + "feed_forward.w2.weight", _HF + "mlp.down_proj.weight", "matrix", 1),
}

# Keys that are known and not needed.
IGNORED = {
    "meta": ("rope.freqs",),  # recomputed
    "lumina": ("model.vqmodel.",),  # never trained: the original reads vqgan.ckpt beside it
    "transformers": (),
    "anole": ("model.vqmodel.",),
    "vqgan": ("loss.",),  # the discriminator and LPIPS of the original's training
}
VQMODEL = (
    "model.vqmodel."  # before the VQGAN's own keys in transformers' files, which lack its decoder
)
