"""What a queue draws in: padded sizes chosen once, and slots that requests with equally many streams share."""

from dataclasses import replace
from typing import Any

import numpy as np

from lumina_jax.config import SampleConfig
from lumina_jax.dims import pick
from lumina_jax.lumina import Lumina, Size
from lumina_jax.sampling.batch import Job, Network
from lumina_jax.sampling.grammar import plan_image
from lumina_jax.sampling.jacobi import Sizes, Slots, padded_sizes
from lumina_jax.sampling.policy import make_policy
from lumina_jax.sampling.rules import Accept, Rule
from lumina_jax.unirep.grid import crop_sizes

MAX_PROMPT_TOKENS = 256  # of a queue that is told nothing else
ACCEPT: dict[str, Accept] = {"sequential": "tied", "jacobi": "tied", "coupled": "coupled"}


def rule_of(settings: SampleConfig) -> Rule:
    """How slots draw what a decoder would.

    "sequential" is a window of two tied tokens: the same tokens, and a forced one costs no pass of its own.
    """
    accept = pick(ACCEPT, settings.decoder, "decoder")
    window = 2 if settings.decoder == "sequential" else settings.window
    branches = () if settings.decoder == "sequential" else settings.branches
    return Rule(accept, window, settings.drafts, branches)


def with_decoder_of(settings: SampleConfig, queue_settings: SampleConfig) -> SampleConfig:
    """Settings of a request with the decoder of a queue, its window, drafts and branches."""
    shared = {
        name: getattr(queue_settings, name) for name in ("decoder", "window", "drafts", "branches")
    }
    return replace(settings, **shared)


def queue_sizes(
    model: Lumina,
    settings: SampleConfig,
    max_size: Size | None = None,
    max_prompt_tokens: int = MAX_PROMPT_TOKENS,
) -> Sizes:
    """Padded sizes for images up to `max_size` (default: all that the model paints) after prompts of so many tokens."""
    config, vocab = model.config, model.tokenizer.vocab
    sizes = [max_size] if max_size else crop_sizes(config.target_px, config.grid)
    if config.image_layout == "chameleon":
        sizes = [model.trained_size]
    plans = [plan_image(*size, config, vocab) for size in sizes]
    # no sequence is longer than those the model was trained for
    num_prompt_tokens = min(max_prompt_tokens, config.max_tokens)
    longest = num_prompt_tokens + max(len(plan.lead) for plan in plans)
    return padded_sizes(longest, max(len(plan.sentence) for plan in plans), rule_of(settings))


def empty_slots(
    network: Network,
    rule: Rule,
    sizes: Sizes,
    num_slots: int,
    num_streams: int,
    device: Any,
) -> Slots:
    """Slots for requests with so many streams and any settings."""
    guidance: dict[str, Any] = [{"guidance": 1.0}, {}, {"image_guidance": 1.0}][num_streams - 1]
    placeholders = [SampleConfig(**guidance)] * num_slots
    schedule = np.ones((num_slots, sizes.num_tokens)) if num_streams > 1 else None
    policy = make_policy(placeholders, [0] * num_slots, schedule=schedule, whole=True)
    return Slots(network, rule, sizes, policy, device, whole_policy=True)


def check_fit(job: Job, sizes: Sizes, rule: Rule) -> None:
    """Raise ValueError of one line unless a request fits into the sizes."""
    request, longest = job.request, max(len(context) for context in job.contexts)
    beyond = rule.window + len(rule.branches)
    if len(job.plan.sentence) + beyond > sizes.num_tokens:
        raise ValueError(
            f"size {request.width_px}x{request.height_px}: {len(job.plan.sentence)} tokens, this queue paints at most "
            f"{sizes.num_tokens - beyond}; ask for a smaller image"
        )
    over = max(longest - sizes.context_length, job.num_tokens + beyond - sizes.num_slots)
    if over > 0:
        lead = len(job.plan.lead)
        raise ValueError(
            f"prompt of {longest - lead} tokens, then {lead} that are known of an image of {request.width_px}x"
            f"{request.height_px} px: {over} more than this queue reads; shorten it, or make a queue for longer ones"
        )
