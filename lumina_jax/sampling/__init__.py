"""Sampling: prompts in, image sentences out. `generate.generate` is the entrance.

"sequential" draws code by code. "jacobi" draws the same codes in fewer passes, "coupled" codes of the same law in
fewer still. "staggered" draws rows of codes side by side: the fewest passes, and another law (lossy). Every row is a
`batch.Decode`.
"""

from collections.abc import Mapping
from functools import partial

from lumina_jax.sampling import jacobi, sequential, staggered
from lumina_jax.sampling.batch import Decode

DECODERS: Mapping[str, Decode] = {
    "sequential": sequential.decode,
    "jacobi": partial(jacobi.decode, accept="tied"),
    "coupled": partial(jacobi.decode, accept="coupled"),
    "staggered": partial(
        sequential.decode,
        draw_rows=staggered.draw_runs,
        count_passes=staggered.count_passes,
    ),
}
