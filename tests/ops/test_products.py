"""A weight stored as rows of outputs multiplies, is cut and comes back as the weight itself; it is never copied."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.model.weights import CONTRACTED
from lumina_jax.ops.products import FEW_TOKENS, OutputRows, StoredWeight, product, rows
from tests.ops.specs import SPECS

SIZES = {"B": 2, "S": 3, "D": 48, "N": 4, "K": 2, "H": 8, "F": 40, "V": 56}
RNG = np.random.default_rng(0)


def normal(letters: str) -> jax.Array:
    """Random numbers, an axis a letter."""
    return jnp.asarray(RNG.normal(size=[SIZES[letter] for letter in letters]), jnp.float32)


def stored(letters: str) -> tuple[jax.Array, OutputRows]:
    """A random weight, and its rows of outputs."""
    weight = normal(letters.replace(" ", ""))
    return weight, OutputRows.of(weight, CONTRACTED[letters])


@pytest.mark.parametrize("letters", CONTRACTED)
def test_product_equals_that_of_the_array(letters: str) -> None:
    spec = SPECS[letters]
    weight, kept = stored(letters)
    x = normal(spec.split(",")[0])
    assert isinstance(kept, StoredWeight) and kept.shape == weight.shape
    got, want = product(spec, x, kept, jnp.float32), product(spec, x, weight, jnp.float32)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def test_many_tokens_are_multiplied_alike() -> None:
    weight, kept = stored("D F")
    x = jnp.asarray(RNG.normal(size=(2, FEW_TOKENS, SIZES["D"])), jnp.float32)
    got, want = (product("BSD,DF->BSF", x, form) for form in (kept, weight))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("letters", CONTRACTED)
def test_array_comes_back_bit_by_bit(letters: str) -> None:
    weight, kept = stored(letters)
    np.testing.assert_array_equal(kept.array(), weight)


def test_rows_of_the_head_are_rows_of_its_table() -> None:
    weight, kept = stored("V D")
    cut = rows(kept, 3, 10)
    assert cut.shape == (10, SIZES["D"])
    np.testing.assert_array_equal(cut.array(), weight[3:13])
    np.testing.assert_array_equal(kept.matrix, weight)  # as it lay: nothing to turn


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a CPU's programs")
def test_weight_stays_on_the_left_and_is_not_copied() -> None:
    weight, kept = stored("D F")
    compiled = jax.jit(lambda x, w: product("BSD,DF->BSF", x, w)).lower(normal("BSD"), kept)
    text = compiled.compile().as_text()
    matrix = f"f32[{kept.matrix.shape[0]},{kept.matrix.shape[1]}]"
    made = [line for line in text.splitlines() if f" = {matrix}" in line]
    assert all("parameter(" in line for line in made)
    assert f"f32[{weight.shape[1]},{2 * 3}]" in text  # [outputs, tokens], turned only afterwards
