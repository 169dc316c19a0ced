"""The face: painting, loading, and the original's numbers through it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumina_jax import Lumina
from lumina_jax.checkpoint import CheckpointError, save_model
from lumina_jax.config import SampleConfig
from lumina_jax.config_json import config_from_dict
from lumina_jax.image_files import read_metadata
from lumina_jax.unirep.image_tokens import parse_image

FEW = {"guidance": 2.0, "image_top_k": 30}


@pytest.fixture(scope="module")
def checkpoint(small_lumina, tmp_path_factory) -> Path:
    """The small model on disk, with sampling settings of its own."""
    path = tmp_path_factory.mktemp("checkpoint") / "model"
    notes = {"sample": {"guidance": 3.5, "image_top_k": 12}}
    model = small_lumina
    return save_model(path, model.loaded.params, model.config, model.tokenizer, notes)


def test_same_arguments_paint_the_same_image_whatever_else_is_in_the_list(small_lumina) -> None:
    alone = small_lumina.generate("a red star", (48, 32), seed=4, **FEW)
    sizes = [(32, 16), (48, 32)]
    both = small_lumina.generate(["a circle", "a red star"], sizes, seed=4, **FEW)
    assert [image.size for image in both] == sizes
    np.testing.assert_array_equal(both[1].pixels, alone.pixels)
    np.testing.assert_array_equal(both[1].ids, alone.ids)


def test_pixels_are_the_decoded_ids(small_lumina) -> None:
    image = small_lumina.generate("a red star", (48, 32), **FEW)
    assert image.pixels.shape == (32, 48, 3)
    np.testing.assert_array_equal(small_lumina.decode_image(image.ids), image.pixels)


def test_weights_that_are_not_the_configs_are_refused(small_lumina, tmp_path: Path) -> None:
    model = small_lumina
    deeper = replace(model.config.transformer, num_layers=3)
    config = replace(model.config, transformer=deeper)
    path = save_model(tmp_path / "model", model.loaded.params, config, model.tokenizer)
    with pytest.raises(CheckpointError, match="transformer/layers/02/.* is missing"):
        Lumina.load(path)


def test_unknown_sampling_settings_are_refused(small_lumina, tmp_path: Path) -> None:
    model = small_lumina
    notes = {"sample": {"guidence": 3.0}}
    path = save_model(tmp_path / "model", model.loaded.params, model.config, model.tokenizer, notes)
    with pytest.raises(CheckpointError, match="extra.sample.*guidence"):
        Lumina.load(path)


def test_one_prompt_with_several_seeds_gives_a_list(small_lumina) -> None:
    images = small_lumina.generate("a red star", (48, 32), seed=[1, 2, 3], **FEW)
    assert [image.seed for image in images] == [1, 2, 3]
    assert not np.array_equal(images[0].ids, images[1].ids)
    assert len(small_lumina.generate(["a red star"], (48, 32), seed=1, **FEW)) == 1


def test_default_size_is_the_trained_square(small_lumina) -> None:
    assert small_lumina.trained_size == (128, 128)


def test_progress_bar_counts_every_code(small_lumina, capsys) -> None:
    small_lumina.generate(["a red star", "a star", "a"], (48, 32), progress=True, **FEW)
    assert "72/72" in capsys.readouterr().err


def test_metadata_of_a_saved_png_paints_the_image_again(small_lumina, tmp_path) -> None:
    image = small_lumina.generate("ein „rötlicher“ Stern ☆", (48, 32), seed=9, **FEW)
    path = image.save(tmp_path / "new" / "star.png")
    stored = read_metadata(path)
    assert stored["checkpoint"] == small_lumina.checkpoint
    settings = json.loads(stored["settings"])
    assert config_from_dict(SampleConfig, settings) == image.settings
    width, height = map(int, stored["size"].split("x"))
    again = small_lumina.generate(
        stored["prompt"], (width, height), int(stored["seed"]), **{k: settings[k] for k in FEW}
    )
    np.testing.assert_array_equal(again.pixels, np.asarray(Image.open(path)))
    assert [file.name for file in path.parent.iterdir()] == ["star.png"]


def test_encode_image_gives_a_sentence_of_the_nearest_size(small_lumina) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 100, 3), np.uint8)
    ids = small_lumina.encode_image(pixels, target_px=64)
    codes = parse_image(ids, small_lumina.tokenizer.vocab, small_lumina.config.grid)
    assert codes.shape == (6, 10)  # 80x48 px keeps more of a 2:1 image than any other allowed size


def test_logits_refuses_ids_outside_the_vocabulary(small_lumina) -> None:
    size = small_lumina.config.transformer.vocab_size
    with pytest.raises(ValueError, match=f"ids from 0 to {size}: want 0 to {size - 1}"):
        small_lumina.logits(np.array([[0, size]]))
    with pytest.raises(ValueError, match=r"want integers \[sequences, tokens\]"):
        small_lumina.logits(np.array([0, 1]))


def test_loaded_checkpoint_paints_as_the_model_that_was_saved(small_lumina, checkpoint) -> None:
    loaded = Lumina.load(checkpoint)
    assert (loaded.settings.guidance, loaded.settings.image_top_k) == (3.5, 12)
    image = loaded.generate("a red star", (48, 32), seed=4, **FEW)
    wanted = small_lumina.generate("a red star", (48, 32), seed=4, **FEW)
    np.testing.assert_array_equal(image.pixels, wanted.pixels)


def test_digest_changes_with_a_weight(small_lumina, checkpoint) -> None:
    assert Lumina.load(checkpoint).checkpoint == Lumina.load(checkpoint).checkpoint
    vqgan = small_lumina.vqgan_params
    other = {**vqgan, "quantize": {"embedding": vqgan["quantize"]["embedding"] + 1}}
    parts = small_lumina.config, small_lumina.params, other, small_lumina.tokenizer
    assert Lumina(*parts).checkpoint != small_lumina.checkpoint


def test_half_a_model_is_refused(small_lumina, tmp_path) -> None:
    params = {"vqgan": small_lumina.vqgan_params}
    path = save_model(tmp_path / "half", params, small_lumina.config, small_lumina.tokenizer)
    with pytest.raises(ValueError, match="half: has no transformer; want a complete model"):
        Lumina.load(path)
    with pytest.raises(CheckpointError, match="nowhere"):
        Lumina.load(tmp_path / "nowhere")


def test_tokenizer_of_another_model_is_refused(small_lumina) -> None:
    config = replace(small_lumina.config, vqgan=replace(small_lumina.config.vqgan, num_codes=65))
    parts = small_lumina.params, small_lumina.vqgan_params, small_lumina.tokenizer
    with pytest.raises(ValueError, match="64 codes: the model has .* and 65"):
        Lumina(config, *parts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "  "}, "empty prompt"),
        ({"prompt": ["a", "b"], "seed": [1, 2, 3]}, "2 prompts and 3 seeds: want one each"),
        ({"prompt": "a", "guidance": float("nan")}, "guidance nan"),
        ({"prompt": "a", "size": (136, 128)}, "multiples of 16 px"),
        ({"prompt": "a", "size": (256, 128)}, "needs 532 tokens, this model has room for"),
        ({"prompt": "a star. " * 100, "size": (48, 32)}, r"prompt .* 400"),
        ({"prompt": "a", "grammar": "free"}, "grammar 'free'"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(small_lumina, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        small_lumina.generate(**arguments)
    assert "\n" not in str(caught.value)
