"""Images without a grammar: every token is drawn out of the whole vocabulary, and whatever comes is read.

An image can be decoded when its sentence parses and has the size that was asked. The three ways to fail are told apart.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from lumina_jax.evals.prompts import Prompt
from lumina_jax.painting import Ask, request_of
from lumina_jax.sampling.text import TextJob, draw_texts
from lumina_jax.token_model import TokenModel
from lumina_jax.unirep.grid import image_token_count, latent_shape, tells_size
from lumina_jax.unirep.image_tokens import parse_image

Fate = Literal["decodable", "wrong size", "unparsable", "no image"]
FATES: tuple[Fate, ...] = ("decodable", "wrong size", "unparsable", "no image")
Size = tuple[int, int]  # (width, height) px


def unforced_images(
    model: TokenModel, prompts: Sequence[Prompt], first_seed: int = 0
) -> list[np.ndarray]:
    """What follows each prompt, int32, up to and with its separator; prompt i is drawn with seed `first_seed` + i.

    Drawn as codes are, with the image's top-k and without guidance: no stream knows of an image before it has begun. At
    most twice as many tokens as the asked image has are written.
    """
    config, vocab = model.config, model.tokenizer.vocab
    settings = replace(model.settings, text_top_k=model.settings.image_top_k)
    everything = np.arange(vocab.size)
    firsts, limits = [], []
    for index, prompt in enumerate(prompts):
        size = prompt.width_px, prompt.height_px
        ask = Ask(prompt.text, size, first_seed + index, None, None)
        context = request_of(ask, model.tokenizer, config.image_layout).prompt_ids
        firsts.append(TextJob(context, settings, ask.seed, 1, allowed=everything))
        limit = 2 * image_token_count(*size, config.grid, config.image_layout)
        limits.append(min(limit, config.max_tokens - len(context)))
    begun = draw_texts(model.loaded, firsts)
    # `draw_texts` ends at a separator and at the start of an image: what starts one goes on in a second call
    later = {
        index: replace(
            job,
            context=np.append(job.context, ids).astype(np.int32),
            limit=limits[index] - 1,
            first_index=1,
        )
        for index, (job, ids) in enumerate(zip(firsts, begun, strict=True))
        if ids[-1] == vocab.image_start_id
    }
    drawn = dict(zip(later, draw_texts(model.loaded, list(later.values())), strict=True))
    return [
        np.concatenate([ids, drawn.get(index, np.zeros(0, np.int32))])
        for index, ids in enumerate(begun)
    ]


def fate(ids: np.ndarray, size: Size, model: TokenModel) -> Fate:
    """What became of an answer that was to be an image of `size`: a row of FATES.

    The sentence is all from the start token to the first end token; what follows it is not judged. An image of a layout
    without size tokens has another size where it is codes alone, and another number of them.
    """
    config, vocab = model.config, model.tokenizer.vocab
    if not len(ids) or ids[0] != vocab.image_start_id:
        return "no image"
    ends = np.flatnonzero(ids == vocab.image_end_id)
    if not len(ends):
        return "unparsable"
    sentence, shape = ids[: ends[0] + 1], latent_shape(*size, config.grid)
    if not tells_size(config.image_layout):
        if not vocab.is_code(sentence[1:-1]).all():
            return "unparsable"
        return "decodable" if len(sentence) - 2 == shape[0] * shape[1] else "wrong size"
    try:
        codes = parse_image(sentence, vocab, config.grid, config.image_layout)
    except ValueError:
        return "unparsable"
    return "decodable" if codes.shape == shape else "wrong size"


def fates(model: TokenModel, prompts: Sequence[Prompt], first_seed: int = 0) -> dict[str, float]:
    """The share of each of FATES among the answers to prompts."""
    answers = unforced_images(model, prompts, first_seed)
    found = Counter(
        fate(ids, (prompt.width_px, prompt.height_px), model)
        for ids, prompt in zip(answers, prompts, strict=True)
    )
    return {name: found[name] / len(prompts) for name in FATES}
