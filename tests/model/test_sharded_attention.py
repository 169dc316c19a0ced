"""Attention on eight devices, by each kernel and in each strategy, against one device; and which kernel is taken."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.experiment import MeshConfig
from lumina_jax.model import sharded_attention as module
from lumina_jax.model.sharded_attention import attend_in_parts, sharded_attention
from lumina_jax.ops.attention import attention
from lumina_jax.ops.splash import make_splash
from lumina_jax.sharding import Layout, constrain, letter_ways, make_layout

N, K = 4, 2
MESHES = {
    "data": "data=8",
    "fsdp": "fsdp=8",
    "fsdp_tensor": "fsdp=4,tensor=2",
    "fsdp_sequence": "fsdp=4,sequence=2",
    "data_fsdp_sequence": "data=2,fsdp=2,sequence=2",
    "sequence": "sequence=8",
}
SLOW = pytest.mark.slow


def layout_of(strategy: str) -> Layout:
    return make_layout(MeshConfig.parse(MESHES[strategy]))


def draw(length: int, head_size: int) -> tuple[list[jax.Array], jax.Array]:
    """Eight rows of queries, keys and values; each row has three segments that end elsewhere."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((8, length, n, head_size), np.float32) for n in (N, K, K)]
    ends = np.sort(rng.integers(1, length, (8, 2)))[:, :, None]
    segments = 1 + (np.arange(length) >= ends).sum(1)
    return [jnp.asarray(x) for x in arrays], jnp.asarray(segments, jnp.int32)


def objective(attend: Any) -> Any:
    """Value and gradients of a function of `attend`'s result, jitted."""

    def value(arrays: list[jax.Array]) -> Any:
        mixed = attend(*arrays)
        return jnp.sum(jnp.sin(3 * mixed)), mixed

    return jax.jit(jax.value_and_grad(value, has_aux=True))


def assert_same(found: Any, wanted: Any) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("packed", [True, pytest.param(False, marks=SLOW)])
@pytest.mark.parametrize(
    "strategy",
    [
        "fsdp_sequence",
        *(
            pytest.param(name, marks=SLOW)
            for name in ("sequence", "data_fsdp_sequence", "fsdp_tensor")
        ),
    ],
)
def test_parts_by_xlas_kernel_equal_the_whole(strategy: str, packed: bool):
    """Each device its queries, with keys and segments gathered along the sequence."""
    layout, (arrays, segments) = layout_of(strategy), draw(32, 8)
    given = segments if packed else None
    wanted = objective(lambda *qkv: attention(*qkv, segment_ids=given))(arrays)
    found = objective(lambda *qkv: attend_in_parts(*qkv, given, layout, "xla"))(arrays)
    assert_same(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [True, pytest.param(False, marks=SLOW)])
@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param("fsdp", marks=SLOW),
        "fsdp_tensor",
        "fsdp_sequence",
        pytest.param("data_fsdp_sequence", marks=SLOW),
    ],
)
def test_parts_by_splash_equal_the_whole(strategy: str, packed: bool):
    """The kernel, interpreted, with its masks split as the heads and queries are."""
    layout, (arrays, segments) = layout_of(strategy), draw(256, 128)
    given = segments if packed else None
    ways = letter_ways("N", layout), letter_ways("S", layout)
    splash = make_splash(256, N, *ways, on_tpu=False)
    wanted = objective(lambda *qkv: attention(*qkv, segment_ids=given))(arrays)
    attend = objective(lambda *qkv: attend_in_parts(*qkv, given, layout, "splash", splash))
    assert_same(attend(arrays), wanted)


def test_a_sequence_is_gathered_by_no_device_for_its_queries():
    """Results stay split over the sequence: no device has more than its queries' part."""
    layout, (arrays, segments) = layout_of("fsdp_sequence"), draw(32, 8)

    def attend(*qkv: jax.Array) -> jax.Array:
        return constrain(sharded_attention(*qkv, segments, layout), "B S N H", layout)

    found = jax.jit(attend)(*arrays)
    assert found.addressable_shards[0].data.shape == (2, 16, N, 8)


@pytest.mark.parametrize(
    ("platform", "strategy", "dtype", "wanted"),
    [
        ("tpu", "fsdp_tensor", "bfloat16", ("splash", 2, 1)),
        ("tpu", "fsdp_sequence", "float32", ("splash", 1, 2)),
        ("gpu", "fsdp", "bfloat16", ("cudnn",)),
        ("gpu", "fsdp_sequence", "float32", ("xla",)),
        ("cpu", "fsdp_sequence", "bfloat16", ("xla",)),
        ("gpu", "fsdp", "float32", None),
        ("cpu", "data", "bfloat16", None),
    ],
)
def test_kernel_is_that_of_the_layouts_devices(platform, strategy, dtype, wanted, monkeypatch):
    """Not of this machine's: programs are compiled for others. None: left to the compiler."""
    layout, calls = layout_of(strategy), []
    device = SimpleNamespace(platform=platform, compute_capability="9.0")
    mesh = SimpleNamespace(devices=np.array([device] * 8), shape=layout.mesh.shape)
    for_others: Any = SimpleNamespace(mesh=mesh, strategy=strategy)

    def parts(query: Any, key: Any, value: Any, segments: Any, layout: Any, *kernel: Any) -> Any:
        calls.append(kernel)
        return query

    monkeypatch.setattr(module, "attend_in_parts", parts)
    monkeypatch.setattr(module, "make_splash", lambda length, heads, *ways: ways)
    arrays, segments = draw(16, 128)
    qkv = [x.astype(dtype) for x in arrays]
    sharded_attention.__wrapped__(*qkv, segments, for_others)  # pyright: ignore
    got = [(kernel, *(splash or ())) for kernel, splash in calls]
    assert got == ([] if wanted is None else [wanted])
