"""Sampling: prompts in, image sentences out. `generate.generate` is the entrance.

A decoder takes (params, transformer config, (first code id, number of codes), Batch) and yields runs of codes.
"""

from lumina_jax.sampling import sequential

DECODERS = {"sequential": sequential.decode}
