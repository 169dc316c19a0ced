"""Sums scattered ring by ring equal sums scattered at once, on axes that fill a box of chips row by row."""

import itertools
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lumina_jax.experiment import MeshConfig
from lumina_jax.sharding import gathered, letter_sharding, make_layout, ring_steps, rings
from lumina_jax.sharding.rings import box_of


def chips(kind: str, places: list[tuple[int, ...]]) -> np.ndarray:
    return np.array(
        [SimpleNamespace(platform="tpu", device_kind=kind, coords=place) for place in places]
    )


def mesh_of(kind: str, *sides: int, shape: tuple[int, ...] | None = None) -> Any:
    """A mesh of fake chips that fill a box row by row, with the axes "data" and "fsdp", or "fsdp" alone."""
    places = list(itertools.product(*map(range, sides)))
    devices = chips(kind, places).reshape(shape or (len(places),))
    names = ("data", "fsdp")[-devices.ndim :]
    sizes = dict(zip(names, devices.shape, strict=True))
    return SimpleNamespace(devices=devices, axis_names=names, shape=sizes)


def test_steps_go_along_each_side_of_the_torus():
    """Six chips as 2 x 3: first between 0 and 3, 1 and 4, 2 and 5, then within each three."""
    found = ring_steps(mesh_of("TPU v6 lite", 2, 3, 1), "fsdp")
    assert found == [[[0, 3], [1, 4], [2, 5]], [[0, 1, 2], [3, 4, 5]]]


def test_an_axis_within_a_mesh_has_the_steps_of_its_own_chips():
    """Of 2 x 2 x 2 chips "data" takes the first side: "fsdp" the others."""
    mesh = mesh_of("TPU v5", 2, 2, 2, shape=(2, 4))
    assert ring_steps(mesh, "fsdp") == [[[0, 2], [1, 3]], [[0, 1], [2, 3]]]


@pytest.mark.parametrize("kind", ["TPU v5 lite", "TPU v4", "unknown"])
def test_chips_without_such_cores_scatter_at_once(kind: str):
    assert ring_steps(mesh_of(kind, 2, 3, 1), "fsdp") == [None]


def test_chips_in_another_order_are_no_box():
    """As a snake they are not where the steps would leave each part."""
    places = [(0, 0), (0, 1), (1, 1), (1, 0)]
    assert box_of(places) == ()
    assert box_of(sorted(places)) == (2, 2)
    assert box_of([(0, 0), (0, 1), (1, 0)]) == ()


def test_steps_together_are_one_reduce_scatter():
    """Eight devices as 2 x 4: each ends with the part that it has to have."""
    layout = make_layout(MeshConfig.parse("fsdp=8"))
    fake = mesh_of("TPU v6 lite", 2, 4)

    def scattered(steps: list[Any]) -> Any:
        def scatter(x: jax.Array) -> jax.Array:
            for groups in steps:
                x = jax.lax.psum_scatter(
                    x, "fsdp", scatter_dimension=1, axis_index_groups=groups, tiled=True
                )
            return x

        split = {"in_specs": P("fsdp"), "out_specs": P(None, "fsdp"), "check_vma": False}
        return jax.jit(jax.shard_map(scatter, mesh=layout.mesh, **split))

    x = np.random.default_rng(0).standard_normal((8, 16), np.float32)
    steps = ring_steps(fake, "fsdp")
    assert len(steps) == 2
    np.testing.assert_allclose(scattered(steps)(x), x.sum(0, keepdims=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scattered(steps)(x), scattered([None])(x), rtol=1e-5, atol=1e-6)


def cubes(weight: Any, letters: str, layout: Any) -> Any:
    whole: Any = gathered(weight, letters, layout)
    return (whole**3).sum()


def test_a_gather_by_rings_is_the_gather(monkeypatch: pytest.MonkeyPatch):
    """In value and gradient, of a weight whose letters put D first, in the middle and last."""
    layout = make_layout(MeshConfig.parse("fsdp=8"))
    steps = ring_steps(mesh_of("TPU v6 lite", 2, 4), "fsdp")
    for letters, shape in {"D F": (16, 3), "N D H": (2, 16, 3), "F D": (3, 16)}.items():
        weight = np.random.default_rng(0).standard_normal(shape, np.float32)
        place = letter_sharding(letters, shape, layout, "weights")
        found = []
        for wired in (steps, [None]):
            monkeypatch.setattr(rings, "ring_steps", lambda mesh, axis, wired=wired: wired)
            graded = jax.value_and_grad(partial(cubes, letters=letters, layout=layout))
            found.append(jax.jit(graded, in_shardings=place)(weight))
        for one, other in zip(*found, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5)
