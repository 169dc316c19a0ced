"""The released VQGAN's layout against our tree, and its codes and pixels against the original's."""

import gzip
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.config import GridConfig, VQGANConfig
from lumina_jax.convert.companions import find_vqgan
from lumina_jax.convert.configs import (
    read_vq_config,
    read_vqgan_yaml,
    write_vq_config,
    write_vqgan_yaml,
)
from lumina_jax.convert.tensor_files import open_tensors
from lumina_jax.convert.vqgan import release_key, stored_entries
from lumina_jax.orbax_io import nested
from lumina_jax.unirep.image_tokens import fit_image, parse_image
from lumina_jax.unirep.vocab import Vocab
from lumina_jax.vqgan.codec import abstract_vqgan, decode, encode, from_pixels, to_pixels

TARGET_PX = 96  # of the golden images
encode_jit = jax.jit(encode, static_argnums=1)
decode_jit = jax.jit(decode, static_argnums=1)


def load(folder):
    """Config and parameters of a folder with vqgan.yaml and vqgan.ckpt."""
    config, leaves, *_ = find_vqgan(folder, folder / "vqgan.ckpt", {})
    return config, nested({name: leaf.read() for name, leaf in leaves.items()})


@pytest.fixture(scope="module")
def loaded(golden_release):
    """Config and parameters of each golden VQGAN."""
    return load(golden_release("tokenizer"))


@pytest.fixture(scope="module")
def release(load_golden, tmp_path_factory):
    """A folder with vqgan.yaml and vqgan.ckpt: where one release is as good as two."""
    folder = tmp_path_factory.mktemp("release")
    source = load_golden("tiny_7b").path / "tokenizer"
    (folder / "vqgan.yaml").write_bytes((source / "vqgan.yaml").read_bytes())
    packed = (source / "vqgan.ckpt.gz").read_bytes()
    (folder / "vqgan.ckpt").write_bytes(gzip.decompress(packed))
    return folder


@pytest.fixture(scope="module")
def vocab(golden_tokenizer) -> Vocab:
    return golden_tokenizer.vocab


@pytest.mark.parametrize("kind", ["wide", "square", "rgba"])
def test_codes_equal_the_originals(golden, loaded, vocab, kind):
    config, params = loaded
    pixels = fit_image(golden.image(kind), TARGET_PX, GridConfig())
    codes = encode_jit(params, config, from_pixels(jnp.asarray(pixels[None])))[0]
    np.testing.assert_array_equal(codes, parse_image(golden[f"tok_{kind}"], vocab, GridConfig()))


def test_pixels_equal_the_originals_to_one_level(golden, loaded, vocab):
    config, params = loaded
    codes = parse_image(golden["tok_wide"], vocab, GridConfig())
    pixels = np.asarray(to_pixels(decode_jit(params, config, jnp.asarray(codes[None]))))[0].astype(
        int
    )
    assert pixels.shape == golden["decoded_wide"].shape
    assert np.abs(pixels - golden["decoded_wide"]).max() <= 1


def test_yaml_gives_the_config(release):
    config = read_vqgan_yaml(release / "vqgan.yaml")
    expected = VQGANConfig(32, (1, 1, 2, 2, 2), 1, z_channels=16, code_width=16, num_codes=8192)
    assert config == expected


def test_descriptions_round_trip(tmp_path):
    config = VQGANConfig(64, (1, 2, 4), 3, z_channels=8, code_width=4, num_codes=16, dropout=0.1)
    (tmp_path / "vqgan.yaml").write_text(write_vqgan_yaml(config))
    assert read_vqgan_yaml(tmp_path / "vqgan.yaml") == config
    (tmp_path / "config.json").write_text(json.dumps({"vq_config": write_vq_config(config)}))
    assert read_vq_config(tmp_path / "config.json") == replace(config, has_decoder=False)


def test_release_and_tree_round_trip_is_bit_exact(release):
    config, leaves, *_ = find_vqgan(release, release / "vqgan.ckpt", {})
    stored = open_tensors(release / "vqgan.ckpt")
    ours = stored_entries(config, leaves)
    assert set(ours) == {key for key in stored if not key.startswith("loss.")}
    for key, entry in ours.items():
        assert (entry.shape, entry.dtype) == (stored[key].shape, stored[key].dtype)
        np.testing.assert_array_equal(entry.read(), stored[key].read(), err_msg=key)


def test_vqgan_without_decoder_reads_images_and_says_why_it_paints_none(loaded):
    config, params = loaded
    bare = replace(config, has_decoder=False)
    part = {name: tree for name, tree in params.items() if name != "decoder"}
    assert jax.tree.structure(part) == jax.tree.structure(abstract_vqgan(bare))
    pixels = jnp.zeros((1, 32, 32, 3))
    codes = encode_jit(params, config, pixels)
    np.testing.assert_array_equal(encode_jit(part, bare, pixels), codes)
    with pytest.raises(ValueError, match="no decoder.*--vqgan"):
        decode_jit(part, bare, jnp.zeros((1, 2, 2), int))


def test_true_sizes_have_the_released_number_of_parameters_and_tensors():
    leaves = jax.tree.leaves(abstract_vqgan(VQGANConfig()))
    assert len(leaves) == 293
    assert sum(leaf.size for leaf in leaves) == 68_718_467


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (
            "encoder/down_3/block_1/nin_shortcut/kernel",
            "encoder.down.3.block.1.nin_shortcut.weight",
        ),
        ("encoder/down_0/downsample/bias", "encoder.down.0.downsample.conv.bias"),
        ("encoder/mid/block_2/norm1/scale", "encoder.mid.block_2.norm1.weight"),
        ("decoder/mid/attn_1/proj_out/kernel", "decoder.mid.attn_1.proj_out.weight"),
        ("decoder/norm_out/bias", "decoder.norm_out.bias"),
        ("quant_conv/conv/kernel", "quant_conv.weight"),
        ("post_quant_conv/conv/bias", "post_quant_conv.bias"),
        ("quantize/embedding", "quantize.embedding.weight"),
    ],
)
def test_release_key_of(path, key):
    assert release_key(path) == key


@pytest.mark.parametrize(
    "option",
    [{"stem_px": 8}, {"separable": True}, {"norm": "pixel"}, {"normalise_codes": True}],
    ids=str,
)
def test_release_refuses_what_its_format_cannot_hold(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        stored_entries(replace(VQGANConfig(), **option), {})


def test_yaml_of_another_architecture_is_refused(release, tmp_path):
    text = (release / "vqgan.yaml").read_text().replace("double_z: false", "double_z: true")
    (tmp_path / "vqgan.yaml").write_text(text)
    with pytest.raises(ValueError, match="double_z is True"):
        read_vqgan_yaml(tmp_path / "vqgan.yaml")


def test_yaml_without_the_number_of_codes_is_refused(release, tmp_path):
    text = (release / "vqgan.yaml").read_text().replace("n_embed", "other")
    (tmp_path / "vqgan.yaml").write_text(text)
    with pytest.raises(ValueError, match="n_embed"):
        read_vqgan_yaml(tmp_path / "vqgan.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("num_res_blocks: 1", "num_res_blocks: 2"), "lacks"),
        (("num_res_blocks: 1", "num_res_blocks: 0"), "unknown"),
        (("embed_dim: 16", "embed_dim: 8"), "has shape"),
    ],
)
def test_checkpoint_that_does_not_fit_its_yaml_is_refused(release, tmp_path, change, message):
    (tmp_path / "vqgan.yaml").write_text((release / "vqgan.yaml").read_text().replace(*change))
    (tmp_path / "vqgan.ckpt").symlink_to(release / "vqgan.ckpt")
    with pytest.raises(ValueError, match=message):
        load(tmp_path)
