"""How fast this machine reads memory, and how many bytes a step of the sequential decoder has to read."""

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.checkpoint import LoadedModel
from lumina_jax.model.params import count_params

GIGABYTE = 10**9


def read_bandwidth(num_bytes: int, num_threads: int, repeats: int = 5) -> float:
    """Bytes a second at which one float32 array of `num_bytes` is read, the best of several ways and repeats.

    The ways: the largest element by numpy, a share of the array a thread, and the sum by XLA.
    """
    values = np.ones(num_bytes // 4, np.float32)
    parts = np.array_split(values, num_threads)
    on_device, total = jnp.asarray(values), jax.jit(jnp.sum)
    seconds = []
    with ThreadPoolExecutor(num_threads) as pool:
        ways = (
            lambda: list(pool.map(np.max, parts)),
            lambda: jax.block_until_ready(total(on_device)),
        )
        for way in ways:
            way()
            for _ in range(repeats):
                start = perf_counter()
                way()
                seconds.append(perf_counter() - start)
    return values.nbytes / min(seconds)


def bytes_per_step(model: LoadedModel, num_slots: float, num_rows: int) -> int:
    """What one step reads: layers, final norm, the head's rows of codes, and `num_slots` of every row's cache."""
    config, params = model.config.transformer, model.params["transformer"]
    itemsize = jnp.dtype(config.compute_dtype).itemsize
    weights = count_params({name: params[name] for name in ("layers", "final_norm")})
    head = model.tokenizer.vocab.num_codes * config.width
    slot = 2 * config.num_layers * config.num_kv_heads * config.head_size
    return round(itemsize * (weights + head + num_rows * num_slots * slot))
