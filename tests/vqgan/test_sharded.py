"""Images on eight fake devices: the same pixels and codes as on one."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lumina_jax.config import VQGANConfig
from lumina_jax.experiment import MeshConfig
from lumina_jax.sharding import Layout, make_layout
from lumina_jax.vqgan import sharded
from lumina_jax.vqgan.codec import abstract_vqgan
from lumina_jax.vqgan.sharded import (
    decode_codes,
    decode_images,
    encode_pixels,
    image_sharding,
    place_vqgan,
)

CHAMELEON = VQGANConfig(8, (1, 2, 2), 1, 4, 4, 64, num_groups=4)
SCENES = VQGANConfig(8, (1, 2), 1, 4, 4, 64, num_groups=1, norm="pixel", stem_px=4, separable=True)


def layout_of(mesh: str) -> Layout:
    config = MeshConfig.parse(mesh)
    return make_layout(config, jax.devices()[: config.num_devices])


def random_params(config: VQGANConfig):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), abstract_vqgan(config)
    )


def random_codes(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 64, shape).astype(np.int32)


@pytest.mark.parametrize("config", [CHAMELEON, SCENES], ids=["chameleon", "scenes"])
@pytest.mark.parametrize(
    ("mesh", "grid"),
    [
        pytest.param("tensor=8", (8, 6), id="rows"),
        pytest.param("tensor=8", (5, 8), id="columns", marks=pytest.mark.slow),
        pytest.param("tensor=8", (5, 3), id="neither", marks=pytest.mark.slow),
        pytest.param("data=2,tensor=4", (8, 6), id="rows over both axes"),
    ],
)
def test_pixels_equal_those_of_one_device(config: VQGANConfig, mesh: str, grid) -> None:
    """To one of 255: sums over devices are rounded in another order, and pixels are truncated."""
    params, codes, layout = random_params(config), random_codes(1, *grid), layout_of(mesh)
    want = np.asarray(decode_codes(params, codes, config)).astype(int)
    got = np.asarray(decode_codes(place_vqgan(params, layout), codes, config, layout))
    assert want.std() > 10
    assert np.abs(got - want).max() <= 1


def test_codes_equal_those_of_one_device() -> None:
    params, layout = random_params(CHAMELEON), layout_of("tensor=8")
    pixels = np.random.default_rng(2).integers(0, 256, (1, 32, 24, 3)).astype(np.uint8)
    want = np.asarray(encode_pixels(params, pixels, CHAMELEON))
    got = np.asarray(encode_pixels(place_vqgan(params, layout), pixels, CHAMELEON, layout))
    assert len(np.unique(want)) >= 3
    np.testing.assert_array_equal(got, want)


def test_each_device_convolves_its_rows_alone() -> None:
    """Eight rows of codes over eight devices: one each at the lowest level, and only keys and values are gathered."""
    layout = layout_of("tensor=8")
    params = place_vqgan(random_params(CHAMELEON), layout)
    text = decode_codes.lower(params, random_codes(1, 8, 6), CHAMELEON, layout).compile().as_text()
    rows = {int(n) for n in re.findall(r"= f32\[1,(\d+),\d+,\d+\]\S* convolution\(", text)}
    assert rows == {1, 2, 4}
    assert len(re.findall(r" all-gather(?:-start)?\(", text)) == 2


@pytest.mark.parametrize(
    ("mesh", "num_images", "grid", "spec"),
    [
        ("tensor=8", 8, (8, 8), P("tensor", None, None)),
        ("tensor=8", 3, (16, 8), P(None, "tensor", None)),
        ("tensor=8", 3, (5, 8), P(None, None, "tensor")),
        ("tensor=8", 3, (5, 7), P(None, None, None)),
        ("data=2,tensor=4", 2, (8, 8), P("data", "tensor", None)),
        ("data=2,tensor=4", 8, (5, 5), P(("data", "tensor"), None, None)),
        ("data=2,tensor=4", 1, (6, 4), P(None, "data", "tensor")),
    ],
)
def test_images_are_split_before_rows_and_rows_before_columns(mesh, num_images, grid, spec) -> None:
    assert image_sharding(num_images, grid, layout_of(mesh)).spec == spec


@pytest.mark.slow
def test_many_images_of_one_size_are_decoded_together(monkeypatch) -> None:
    """Nine of one size and one of another on four devices: two batches of four, and two by themselves."""
    layout, sizes = layout_of("tensor=4"), []
    params = place_vqgan(random_params(CHAMELEON), layout)
    images = [random_codes(9, 4, 4)[index] for index in range(9)]
    images.insert(3, random_codes(4, 2))

    def counted(params, codes, *rest):
        sizes.append(codes.shape[0])
        return decode_codes(params, codes, *rest)

    monkeypatch.setattr(sharded, "decode_codes", counted)
    got = decode_images(params, images, CHAMELEON, layout)
    assert sizes == [4, 4, 1, 1]
    for pixels, codes in zip(got, images, strict=True):
        want = np.asarray(decode_codes(random_params(CHAMELEON), codes[None], CHAMELEON))[0]
        assert pixels.shape == want.shape
        assert np.abs(pixels.astype(int) - want).max() <= 1
