"""How far does each precision move a model, how much memory does it take, how fast does it paint? A row a precision.

    PYTHONPATH=. python benchmarks/precision.py [--checkpoint scenes] [--precisions float32 int8]

Teacher forcing: images that the float32 model painted are read back through the cache, and at every code the
distributions of the next are compared with those of float32 and of bfloat16. Then each paints the same prompts.
"""

from dataclasses import dataclass
from functools import partial
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.cli import parse_arguments, run_main
from lumina_jax.evals.prompts import eval_prompts
from lumina_jax.lumina import Lumina
from lumina_jax.model.chameleon import forward
from lumina_jax.model.precision import PRECISIONS, weight_bytes
from lumina_jax.ops.cache import cache_bytes, init_cache
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.tasks import text_to_image

REFERENCES = ("float32", "bfloat16")
SLOTS = 128  # caches hold a multiple of this


@dataclass(frozen=True)
class Options:
    """What to compare, on how many prompts of each of the six categories."""

    checkpoint: str = "scenes"
    precisions: tuple[str, ...] = tuple(PRECISIONS)
    prompts_per_category: int = 8
    # what a model of another world paints each time, at its trained square; default: prompts of the scenes
    prompt: str | None = None


def main() -> None:
    """Compare every precision and print a table."""
    options = parse_arguments(Options, prog="benchmarks/precision.py", description=__doc__)
    prompts = eval_prompts(options.prompts_per_category, purpose="choose")
    texts = [options.prompt or prompt.text for prompt in prompts]
    model = Lumina.load(options.checkpoint, precision=REFERENCES[0])
    square = model.trained_size
    sizes: list[tuple[int, int]] = [
        square if options.prompt else (p.width_px, p.height_px) for p in prompts
    ]
    painted = [image.ids for image in model.generate(texts, sizes, seed=list(range(len(texts))))]
    ids, is_code = sentences(model, texts, sizes, painted)
    wanted = {
        name: code_logits(Lumina.load(options.checkpoint, precision=name), ids)
        for name in REFERENCES
    }
    print(
        "| precision | weights (MiB) | cache (KiB a token) | equal greedy codes, float32 | bfloat16 | KL, float32 | "
        "bfloat16 | same images | first other code | codes/s |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for name in options.precisions:
        model = Lumina.load(options.checkpoint, precision=name)
        logits = code_logits(model, ids)
        near = [agreement(wanted[other], logits, is_code) for other in REFERENCES]
        images, seconds = timed(model, texts, sizes)
        same, first = divergence(model, painted, images)
        codes = sum(width * height for width, height in sizes) / model.config.grid.patch_px**2
        token = cache_bytes(model.config.transformer, 1, SLOTS) / SLOTS
        memory = f"{weight_bytes(model.params) / 2**20:.2f} | {token / 2**10:.2f}"
        shares = " | ".join(f"{equal:.4f}" for equal, _ in near)
        kl = " | ".join(f"{divergence:.2e}" for _, divergence in near)
        row = f"{memory} | {shares} | {kl} | {same:.2f} | {first:.1f} | {codes / seconds:.0f}"
        print(f"| {name} | {row} |", flush=True)


def sentences(
    model: Lumina, texts: list[str], sizes: list[tuple[int, int]], painted: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts and painted images as ids [B, S], padded on the right, and where the next id is a code: bool [B, S]."""
    vocab, layout = model.tokenizer.vocab, model.config.image_layout
    whole = [
        np.concatenate([prompt_ids(text_to_image(*size, text, layout), model.tokenizer), image])
        for text, size, image in zip(texts, sizes, painted, strict=True)
    ]
    ids = np.zeros((len(whole), max(map(len, whole))), np.int32)
    for row, sentence in zip(ids, whole, strict=True):
        row[: len(sentence)] = sentence
    codes = (ids >= vocab.first_code_id) & (ids < vocab.first_code_id + vocab.num_codes)
    return ids, np.concatenate([codes[:, 1:], np.zeros_like(codes[:, :1])], axis=1)


def code_logits(model: Lumina, ids: np.ndarray) -> np.ndarray:
    """Float32[B, S, codes] of the next code, read through the cache that the model paints with."""
    vocab = model.tokenizer.vocab
    codes = (vocab.first_code_id, vocab.num_codes)
    return np.asarray(_through_cache(model.params, ids, model.config.transformer, codes))


@partial(jax.jit, static_argnames=("config", "codes"))
def _through_cache(params, ids, config, codes):
    cache = init_cache(config, ids.shape[0], -(-ids.shape[1] // SLOTS) * SLOTS)
    return forward(params, config, ids, cache=cache, head_slice=codes)[0]


def agreement(want: np.ndarray, got: np.ndarray, where: np.ndarray) -> tuple[float, float]:
    """The share of equal greedy codes, and the mean KL divergence (nats) of `got` from `want`."""
    want, got = want[where], got[where]
    log_p, log_q = jax.nn.log_softmax(want), jax.nn.log_softmax(got)
    kl = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1).mean()
    return float((want.argmax(-1) == got.argmax(-1)).mean()), float(kl)


def timed(model: Lumina, texts, sizes) -> tuple[list, float]:
    """The painted images, and the seconds of the second painting; the first compiles."""
    for _ in range(2):
        start = perf_counter()
        images = model.generate(texts, sizes, seed=list(range(len(texts))))
        seconds = perf_counter() - start
    return images, seconds


def divergence(model: Lumina, painted, images) -> tuple[float, float]:
    """The share of images without another code, and the mean place of the first other code in those with one."""
    vocab = model.tokenizer.vocab
    places = []
    for want, image in zip(painted, images, strict=True):
        codes = (want >= vocab.first_code_id) & (want < vocab.first_code_id + vocab.num_codes)
        places.append(np.flatnonzero(want[codes] != image.ids[codes])[:1])
    first = [place[0] for place in places if place.size]
    return 1 - len(first) / len(places), float(np.mean(first)) if first else float("nan")


if __name__ == "__main__":
    run_main(main)
