"""Records: conversations as tokens and spans, encoded size by size, kept in shards."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from lumina_jax.config import GridConfig, ModelConfig, TransformerConfig, VQGANConfig
from lumina_jax.data import records as records_module
from lumina_jax.data.recipes import make_conversation
from lumina_jax.data.records import (
    encode_images,
    ensure_records,
    make_record,
    pack_record,
    tokenise,
    unpack_record,
)
from lumina_jax.data.shards import open_shards, read_lengths
from lumina_jax.data_config import ScenesSource
from lumina_jax.unirep.image_tokens import find_images, parse_image
from lumina_jax.vqgan.codec import abstract_vqgan

MODEL = ModelConfig(
    TransformerConfig(1, 8, 1, 1, 8, 8, 704),
    vqgan=VQGANConfig(8, (1,), 1, 8, 8, 64, num_groups=4, stem_px=16),
    grid=GridConfig(patch_px=16, unit_px=16, max_units=16),
)
SOURCE = ScenesSource("scenes", 64, 5, sizes=((64, 64), (80, 48)), tasks=(("edit", 1.0),))


@pytest.fixture(scope="module")
def params() -> dict:
    """A random VQGAN, drawn by numpy, because jax would compile every draw."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32), abstract_vqgan(MODEL.vqgan)
    )


def mean_codes(pixels: np.ndarray) -> np.ndarray:
    """A stand-in for the VQGAN: the mean of each patch."""
    rows, columns = pixels.shape[1] // 16, pixels.shape[2] // 16
    patches = pixels.reshape(len(pixels), rows, 16, columns, 16, 3)
    return patches.mean(axis=(2, 4, 5)).astype(np.int32) // 4


def test_record_round_trip_and_labels():
    tokens, labels = np.array([0, 9, 65535, 5, 6, 7]), np.array([-100, 9, 65535, -100, 6, -100])
    record = make_record(tokens, labels, task="t", size=(64, 32), source="s", index=3, id="a/7")
    assert record.spans == ((1, 3), (4, 5))
    found = unpack_record(pack_record(record))
    np.testing.assert_array_equal(found.tokens, tokens)
    np.testing.assert_array_equal(found.labels(), labels)
    assert found._replace(tokens=record.tokens) == record
    assert found.tokens.dtype == np.uint16


def test_a_damaged_record_and_other_bytes_are_refused():
    packed = pack_record(make_record(np.array([300, 301]), np.array([-100, 301]), source="s"))
    tokens = np.array([300, 301], "<u2").tobytes()
    with pytest.raises(ValueError, match="record s#0: damaged"):
        unpack_record(packed.replace(tokens, tokens[::-1]))
    for other in (b"", packed[:-3], b"\x85\xa6tokens"):
        with pytest.raises(ValueError, match="no record of this version"):
            unpack_record(other)


def test_id_beyond_uint16_is_refused():
    with pytest.raises(ValueError, match="65536"):
        make_record(np.array([65536]), np.array([-100]), source="s")


def test_images_are_encoded_in_their_own_place():
    rng = np.random.default_rng(0)
    shapes = [(64, 64, 3), (48, 80, 3)] * 3 + [(64, 64, 3)]
    pictures = [rng.integers(0, 256, shape, np.uint8) for shape in shapes]
    sizes = []

    def encode(pixels: np.ndarray) -> np.ndarray:
        sizes.append(len(pixels))
        return mean_codes(pixels)

    for picture, codes in zip(pictures, encode_images(pictures, encode), strict=True):
        np.testing.assert_array_equal(codes, mean_codes(picture[None])[0])
    assert sizes == [records_module.ENCODE_BATCH] * 2


def test_tokenised_conversation_holds_its_images_in_order(small_tokenizer):
    drawn = [(i, make_conversation(SOURCE, SOURCE.sizes[i % 2], i)) for i in range(3)]
    for (index, made), record in zip(
        drawn, tokenise(drawn, MODEL, small_tokenizer, mean_codes), strict=True
    ):
        vocab, tokens = small_tokenizer.vocab, record.tokens.astype(np.int32)
        spans = find_images(tokens, vocab)
        assert len(spans) == len(made.images) and record.index == index
        for (start, stop), image in zip(spans, made.images, strict=True):
            codes = parse_image(tokens[start:stop], vocab, MODEL.grid)
            np.testing.assert_array_equal(codes, mean_codes(image[None])[0])
        labels = record.labels()
        assert (labels[: spans[0][1]] == -100).all() and labels[-1] == vocab.sep_id


def test_records_are_written_once_and_follow_the_vqgan(
    tmp_path: Path, small_tokenizer, params: dict, monkeypatch
):
    folder = ensure_records(SOURCE, MODEL, params, small_tokenizer, tmp_path)
    source = open_shards(folder)
    found = [unpack_record(source[index]) for index in range(5)]
    assert [record.index for record in found] == list(range(5))
    assert read_lengths(folder).tolist() == [len(record.tokens) for record in found]
    assert [record.size for record in found] == [(64, 64), (80, 48)] * 2 + [(64, 64)]
    monkeypatch.setattr(records_module, "write_shard", None)
    assert ensure_records(SOURCE, MODEL, params, small_tokenizer, tmp_path) == folder
    changed = {**params, "quantize": {"embedding": params["quantize"]["embedding"] + 1}}
    with pytest.raises(TypeError):  # it starts to write anew
        ensure_records(SOURCE, MODEL, changed, small_tokenizer, tmp_path)


def test_a_killed_tokenisation_goes_on_where_it_stopped(
    tmp_path: Path, small_tokenizer, params: dict, monkeypatch
):
    monkeypatch.setattr(records_module, "RECORDS_PER_SHARD", 2)
    monkeypatch.setattr(records_module, "in_order", lambda f, a, n: (f(*item) for item in a))
    source = replace(SOURCE, tasks=(("text_to_image", 1.0),))
    whole = ensure_records(source, MODEL, params, small_tokenizer, tmp_path / "whole")
    real, written = records_module.write_shard, []

    def write_one(file: Path, packed: list[bytes]) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(file)
        real(file, packed)

    monkeypatch.setattr(records_module, "write_shard", write_one)
    with pytest.raises(KeyboardInterrupt):
        ensure_records(source, MODEL, params, small_tokenizer, tmp_path / "cut")
    monkeypatch.setattr(records_module, "write_shard", real)
    cut = ensure_records(source, MODEL, params, small_tokenizer, tmp_path / "cut")
    assert list(open_shards(cut)) == list(open_shards(whole))
