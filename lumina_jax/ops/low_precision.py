"""Products of training in 8 bits, forward and backward, by qwix: `config.TransformerConfig.matmul_dtype`."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import flax.linen as nn

from lumina_jax.dims import Array, pick
from lumina_jax.ops.products import StoredWeight

E4M3, E5M2 = "float8_e4m3fn", "float8_e5m2"

# As qwix.QtRule takes them. Without bwd_qtype the two products of the backward pass read the unrounded activations,
# weights and gradients, in the dtype of the activations.
RULES: Mapping[str, Mapping[str, Any]] = {
    "int8": {"act_qtype": "int8", "weight_qtype": "int8"},
    "fp8": {"act_qtype": E4M3, "weight_qtype": E4M3, "bwd_qtype": E5M2},
}


class LowPrecisionProduct(nn.Module):
    """`jnp.einsum(spec, x, weight)` in the dtype of x, of operands rounded to `matmul_dtype`, a row of RULES.

    Every token and every output channel has a scale of its own, its largest magnitude, found anew each time. A
    module without weights, as qwix asks the one around it which operand is a weight: here both are the same to it.

    Raises ValueError for a weight in a form of its own, such as one with adapters.
    """

    matmul_dtype: str

    @nn.compact
    def __call__(self, spec: str, x: Array, weight: Any) -> Array:
        if isinstance(weight, StoredWeight):
            raise ValueError(
                f"matmul_dtype {self.matmul_dtype!r} with a weight that is a {type(weight).__name__}: "
                'adapters and quantised weights want matmul_dtype ""'
            )
        provider = _provider(self.matmul_dtype)
        return provider.einsum(spec, x, weight.astype(x.dtype)).astype(x.dtype)


@cache
def _provider(matmul_dtype: str) -> Any:
    """qwix's rules for `matmul_dtype`, of which the products are called as they are: nothing is patched."""
    rule = pick(RULES, matmul_dtype, "matmul_dtype")
    import qwix  # here, so that what computes in floats does without it

    return qwix.QtProvider([qwix.QtRule(**rule)])
