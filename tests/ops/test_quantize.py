"""Whole numbers with scales: how far rounding moves a weight, and that products and caches use them as they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.model.weights import CONTRACTED
from lumina_jax.ops.attention import cached_attention
from lumina_jax.ops.cache import scatter, write
from lumina_jax.ops.products import StoredWeight, product, rows
from lumina_jax.ops.quantize import (
    LARGE,
    QuantizedSlots,
    QuantizedWeight,
    group_size,
    quantize_slots,
    quantize_weight,
)
from tests.ops.specs import SPECS

RNG = np.random.default_rng(0)
SIZES = {"D": 96, "N": 4, "K": 2, "H": 64, "F": 40, "V": 33}
SCALES = {  # shapes of the scales: int8 a channel, int4 a channel and group of inputs
    "D N H": ((1, 4, 64), (3, 4, 64)),
    "D K H": ((1, 2, 64), (3, 2, 64)),
    "N H D": ((1, 1, 96), (4, 1, 96)),
    "D F": ((1, 40), (3, 40)),
    "F D": ((1, 96), (1, 96)),  # 40 inputs have no group of 32 or more
    "V D": ((33, 1), (33, 3)),
}
LEVELS = {"int8": 127, "int4": 7}


def normal(*shape: int) -> jax.Array:
    """Float32 numbers around zero, channels of very different size."""
    return jnp.asarray(RNG.normal(size=shape) * RNG.uniform(0.1, 10, shape[-1]), jnp.float32)


def weight_of(letters: str) -> jax.Array:
    """A random weight of these letters."""
    return normal(*(SIZES[letter] for letter in letters.split()))


@pytest.mark.parametrize("integers", LEVELS)
@pytest.mark.parametrize("letters", CONTRACTED)
def test_no_element_moves_by_more_than_half_a_scale(letters: str, integers) -> None:
    weight = weight_of(letters)
    stored = quantize_weight(weight, CONTRACTED[letters], integers)
    assert stored.values.dtype == integers and stored.scale.dtype == jnp.float32
    assert stored.scale.shape == SCALES[letters][integers == "int4"]
    scale = stored._replace(values=jnp.ones_like(stored.values)).array()
    assert jnp.all(jnp.abs(stored.array() - weight) <= 0.5001 * scale)
    assert stored.values.astype(jnp.int32).max() == LEVELS[integers]


@pytest.mark.parametrize("integers", LEVELS)
def test_whole_numbers_come_back_as_they_are(integers) -> None:
    """Every column holds the largest number: the scale may be another, the numbers are the same.

    qwix's largest magnitude lies half a step beyond the largest number.
    """
    most = LEVELS[integers]
    numbers = RNG.integers(1 - most, most + 1, (64, 5))
    numbers[3] = most
    stored = quantize_weight(jnp.asarray(numbers * 0.37, jnp.float32), (0,), integers)
    np.testing.assert_array_equal(stored.values.astype(jnp.int32), numbers)


def test_bfloat16_weights_are_rounded_as_their_float32_values() -> None:
    weight = weight_of("D F").astype(jnp.bfloat16)
    got, want = (quantize_weight(w, (0,), "int8") for w in (weight, weight.astype(jnp.float32)))
    np.testing.assert_array_equal(got.values, want.values)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("integers", LEVELS)
@pytest.mark.parametrize("letters", CONTRACTED)
def test_product_equals_the_product_with_the_dequantised_weight(
    letters: str, integers, dtype: str
) -> None:
    spec = SPECS[letters]
    sizes = {"B": 2, "S": 3, **SIZES}
    x = normal(*(sizes[letter] for letter in spec.split(",")[0])).astype(dtype)
    stored = quantize_weight(weight_of(letters), CONTRACTED[letters], integers)
    assert isinstance(stored, StoredWeight)
    want = jnp.einsum(spec, x.astype(jnp.float32), stored.array())
    got = product(spec, x, stored)
    assert got.dtype == dtype
    # bfloat16: its results have 8 bits, and int4's scaled weights too
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    np.testing.assert_allclose(
        got, want, rtol=tolerance, atol=tolerance * float(jnp.abs(want).max())
    )


def test_large_weights_give_the_same_product_as_small_ones() -> None:
    """The zero that ties a large weight to x on a CPU changes nothing."""
    x, weight = normal(2, 1, 1024), normal(1024, LARGE // 1024)
    stored = quantize_weight(weight, (0,), "int8")
    halves = [stored._replace(values=v, scale=s) for v, s in zip(*map(halved, stored), strict=True)]
    got = jax.jit(lambda x, w: product("BSD,DF->BSF", x, w))(x, stored)
    want = jnp.concatenate([product("BSD,DF->BSF", x, half) for half in halves], -1)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-3)


def halved(array: jax.Array) -> list[jax.Array]:
    """The two halves of the last axis."""
    return jnp.split(array, 2, axis=-1)


@pytest.mark.parametrize("integers", LEVELS)
def test_rows_are_those_of_the_whole(integers) -> None:
    stored = quantize_weight(weight_of("V D"), (1,), integers)
    np.testing.assert_array_equal(rows(stored, 7, 5).array(), stored.array()[7:12])


def test_columns_of_zeros_stay_zeros() -> None:
    stored = quantize_weight(jnp.zeros((8, 3)), (0,), "int8")
    assert jnp.all(stored.array() == 0)


def test_group_size_divides_the_inputs() -> None:
    assert [group_size(n) for n in (4096, 11008, 352, 64, 40)] == [128, 128, 32, 64, 40]


def test_slots_are_kept_within_half_a_scale_of_each_head() -> None:
    new = normal(2, 3, 4, 8)
    kept = quantize_slots(new)
    assert (kept.values.dtype, kept.values.shape, kept.scale.shape) == (
        "int8",
        new.shape,
        (2, 3, 4),
    )
    moved = jnp.abs(kept.values * kept.scale[..., None] - new)
    assert jnp.all(moved <= 0.5001 * kept.scale[..., None])


def test_write_places_numbers_and_scales() -> None:
    empty = QuantizedSlots(jnp.zeros((2, 2, 5, 4), jnp.int8), jnp.zeros((2, 2, 5)))
    new = normal(2, 2, 2, 4)
    got, kept = write(empty, new, jnp.array([0, 3])), quantize_slots(new.swapaxes(1, 2))
    for have, want in zip(got, kept, strict=True):
        np.testing.assert_array_equal(have[0, :, :2], want[0])
        np.testing.assert_array_equal(have[1, :, 3:], want[1])
        assert not have[0, :, 2:].any() and not have[1, :, :3].any()


def test_scatter_places_numbers_and_scales() -> None:
    empty = QuantizedSlots(jnp.zeros((2, 2, 5, 4), jnp.int8), jnp.zeros((2, 2, 5)))
    new = normal(2, 2, 2, 4)
    at = np.array([[4, 0], [2, 3]])
    got, kept = scatter(empty, new, jnp.asarray(at)), quantize_slots(new.swapaxes(1, 2))
    for have, want in zip(got, kept, strict=True):
        for row, places in enumerate(at):
            np.testing.assert_array_equal(np.asarray(have)[row][:, places], want[row])
            assert not np.delete(np.asarray(have)[row], places, axis=1).any()


def test_attention_over_numbers_equals_attention_over_what_they_stand_for() -> None:
    query, key, value = normal(2, 3, 4, 8), normal(2, 2, 7, 8), normal(2, 2, 7, 8)
    stored = [quantize_slots(each) for each in (key, value)]
    floats = [each.values * each.scale[..., None] for each in stored]
    start = jnp.array([4, 1])
    np.testing.assert_allclose(
        cached_attention(query, *stored, start=start),
        cached_attention(query, *floats, start=start),
        rtol=1e-4,
        atol=1e-4,
    )


def test_stored_weight_is_a_tree_of_two_arrays() -> None:
    stored = quantize_weight(weight_of("D F"), (0,), "int8")
    assert stored.shape == (96, 40)
    assert isinstance(jax.tree.map(lambda leaf: leaf, stored), QuantizedWeight)
    assert len(jax.tree.leaves(stored)) == 2
