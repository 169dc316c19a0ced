"""Unconstrained size tokens: the original draws height and width freely, with the image's top-k and no guidance."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.evals.intervals import mean
from lumina_jax.evals.sweep.points import Point, Sweep
from lumina_jax.sampling.original import check_layout
from lumina_jax.sampling.policy import log_weights, make_policy

TOP_K = 2000  # the original's, of images
BATCH = 32


def free_sizes(sweep: Sweep) -> Point:
    """The probability that the size drawn is not the one asked for, over the prompts; no draw, so no noise of one.

    Beside it, of the height and of the width after the right height: the probability of what is no size token at all,
    after which the original's rules count rows of nonsense, or never end. ValueError for a model without size tokens.
    """
    check_layout(sweep.model.config)
    vocab, grid = sweep.model.tokenizer.vocab, sweep.model.config.grid
    sizes = np.arange(1, min(grid.max_units, vocab.num_sizes - 1) + 1) + vocab.first_size_id
    height, width = _laws(sweep)
    rows = np.arange(len(sweep.prompts))
    asked = [
        np.array([vocab.size_id(px // grid.unit_px) for px in sides])
        for sides in (
            [prompt.height_px for prompt in sweep.prompts],
            [prompt.width_px for prompt in sweep.prompts],
        )
    ]
    right_height, right_width = height[rows, asked[0]], width[rows, asked[1]]
    wrong = mean((1 - right_height * right_width).tolist())
    no_height = mean((1 - height[:, sizes].sum(axis=1)).tolist())
    no_width = mean((1 - width[:, sizes].sum(axis=1)).tolist())
    return {
        "metric": "probability of another size than asked",
        **wrong,
        "sentence": (
            f"Left free, {wrong['score']:.2%} of images have another size than asked, "
            f"{no_height['score']:.2%} no height at all and {no_width['score']:.2%} no width."
        ),
        "no_height": no_height,
        "no_width": no_width,
    }


def _laws(sweep: Sweep) -> tuple[np.ndarray, np.ndarray]:
    """Float[prompts, V]: the probabilities of the height token, and of the width token after the height asked for."""
    model, vocab = sweep.model, sweep.model.tokenizer.vocab
    settings = replace(
        model.settings, image_top_k=TOP_K, temperature=1.0, image_top_p=1.0, image_min_p=0.0
    )
    unit_px = model.config.grid.unit_px
    rows = [
        [*request.prompt_ids, vocab.image_start_id, vocab.size_id(request.height_px // unit_px)]
        for request in sweep.requests(settings)
    ]
    longest, laws = max(map(len, rows)), ([], [])
    for first in range(0, len(rows), BATCH):
        part = rows[first : first + BATCH]
        ids = np.array([row + [vocab.pad_id] * (longest - len(row)) for row in part])
        logits = model.logits(ids)
        policy = make_policy([settings] * len(part), [0] * len(part))
        for law, back in zip(laws, (2, 1), strict=True):
            at = logits[np.arange(len(part)), [len(row) - back for row in part]]
            kept = log_weights(jnp.asarray(at[:, : vocab.size], jnp.float32), policy)
            law.append(np.asarray(jax.nn.softmax(kept, axis=-1), np.float64))
    return np.concatenate(laws[0]), np.concatenate(laws[1])
