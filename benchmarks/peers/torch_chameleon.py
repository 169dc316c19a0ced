"""transformers' Chameleon with our weights, painting as the original does, and with both rows of guidance in one call.

Both stop at the last code, whose line end and image end the original would still spend passes on. The start-of-image
token, height and width stand in the prompt, so that every image has the asked size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from transformers import (  # pyright: ignore[reportMissingImports]
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    DynamicCache,
    GenerationConfig,
)

from benchmarks.peers.original_processors import (
    CACHE,
    ImageGrammar,
    StatusAwareTopK,
    original_processors,
)
from lumina_jax.checkpoint import LoadedModel
from lumina_jax.config import SampleConfig, TransformerConfig
from lumina_jax.convert.transformer import stored_entries
from lumina_jax.convert.weights import Leaf, named
from lumina_jax.ops.products import plain_weights
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import prepare

# The encoder that transformers always builds; none of these benchmarks calls it.
SMALL_VQGAN = {
    "embed_dim": 16,
    "num_embeddings": 64,
    "latent_channels": 16,
    "base_channels": 32,
    "channel_multiplier": [1],
    "num_res_blocks": 1,
}


def to_torch(model: LoadedModel) -> ChameleonForConditionalGeneration:
    """The same transformer in PyTorch, float32, on the CPU; logits of image codes are not masked there."""
    config = model.config.transformer
    peer = ChameleonForConditionalGeneration(torch_config(config)).eval()
    leaves = {
        name: Leaf(leaf.shape, np.dtype(np.float32), lambda leaf=leaf: np.array(leaf, np.float32))
        for name, leaf in named(plain_weights(model.params["transformer"]))
    }
    entries = stored_entries("transformers", config, leaves)
    state = {key: torch.from_numpy(np.array(entry.read())) for key, entry in entries.items()}
    loaded = peer.load_state_dict(state, strict=False)
    missing = [key for key in loaded.missing_keys if not key.startswith("model.vqmodel.")]
    if missing or loaded.unexpected_keys:
        raise ValueError(
            f"PyTorch's Chameleon lacks {missing[:2]} and does not know {loaded.unexpected_keys[:2]}: "
            "want the same weights; use the transformers of requirements-torch.txt"
        )
    return peer


def torch_config(config: TransformerConfig) -> ChameleonConfig:
    """transformers' config of one of our transformers."""
    if config.num_heads * config.head_size != config.width:
        raise ValueError(
            f"{config.num_heads} heads of {config.head_size} in a width of {config.width}: "
            "transformers' Chameleon wants heads that fill the width"
        )
    return ChameleonConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        model_parallel_size=config.qk_norm_shards,
        swin_norm=config.norm_placement == "swin",
        # No name of an image code in it: transformers would forbid their ids, the original's copy does not.
        vocabulary_map={"<image>": 1},
        vq_config=SMALL_VQGAN,
    )


class Painter:
    """One image after the other by PyTorch: prompts as for our own sampler, ids [S] of the sentence out."""

    def __init__(self, model: LoadedModel, settings: SampleConfig):
        self.model, self.settings, self.peer = model, settings, to_torch(model)
        self.vocab, self.grid = model.tokenizer.vocab, model.config.grid

    def largest_difference(self, logits: np.ndarray, ids: np.ndarray) -> float:
        """Between our logits [B, S, V] of `ids` [B, S] and PyTorch's."""
        with torch.inference_mode():
            theirs = self.peer(torch.from_numpy(np.asarray(ids, np.int64))).logits
        return float(np.abs(theirs.numpy() - logits).max())

    def as_original(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """By transformers' `generate` with the original's processors: two calls of the model a token."""
        return [self._generate(*self._contexts(request)) for request in requests]

    def both_rows(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """By a loop of our own that calls the model once a token, on both rows; the same grammar and top-k."""
        return [self._loop(*self._contexts(request)) for request in requests]

    def _contexts(self, request: Request) -> tuple[list[torch.Tensor], int]:
        """What stands before the first code in every stream, and how many tokens end with the last code."""
        (job,) = prepare(self.model, [request], self.settings)
        contexts = [torch.from_numpy(row.astype(np.int64))[None] for row in job.contexts]
        return contexts, job.plan.runs[-1][1] - job.plan.runs[0][0]

    def _generate(self, contexts: list[torch.Tensor], num_tokens: int) -> np.ndarray:
        config = GenerationConfig(
            max_new_tokens=num_tokens,
            do_sample=True,
            temperature=self.settings.temperature,
            top_k=0,  # none beside the processors': transformers' default is 50
            eos_token_id=[self.vocab.sep_id],
            pad_token_id=self.vocab.pad_id,
        )
        processors = original_processors(self.peer, self.settings, self.vocab, self.grid)
        with torch.inference_mode():
            generate: Any = self.peer.generate  # type: ignore[attr-defined]
            ids = generate(contexts[0], config, logits_processor=processors)
        return ids[0, -num_tokens:].numpy()

    @torch.inference_mode()
    def _loop(self, contexts: list[torch.Tensor], num_tokens: int) -> np.ndarray:
        """Rows are padded on the left, and the padding is masked."""
        settings, longest = self.settings, contexts[0].shape[1]
        padding = [longest - context.shape[1] for context in contexts]
        rows = [
            torch.nn.functional.pad(context, (pad, 0))
            for context, pad in zip(contexts, padding, strict=True)
        ]
        new, ids = torch.cat(rows), contexts[0]
        mask = torch.arange(longest) >= torch.tensor(padding)[:, None]
        positions = (torch.arange(longest) - torch.tensor(padding)[:, None]).clamp(min=0)
        grammar = ImageGrammar(self.vocab, self.grid)
        best = StatusAwareTopK(settings.image_top_k, settings.text_top_k, self.vocab)
        cache = DynamicCache()
        for _ in range(num_tokens):
            out = self.peer(
                new,
                attention_mask=mask.long(),
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1,
                **{CACHE: cache},
            )
            scores = out.logits[:1, -1]
            if len(rows) > 1:
                unprompted = out.logits[1:, -1]
                scores = settings.guidance * (scores - unprompted) + unprompted
            scores = best(ids, grammar(ids, scores)) / settings.temperature
            drawn = torch.multinomial(scores.softmax(dim=-1), 1)
            ids = torch.cat([ids, drawn], dim=1)
            new = drawn.expand(len(rows), 1)
            mask = torch.cat([mask, torch.ones(len(rows), 1, dtype=torch.bool)], dim=1)
            positions = positions[:, -1:] + 1
        return ids[0, -num_tokens:].numpy()
