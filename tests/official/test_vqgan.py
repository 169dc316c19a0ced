"""A VQGAN's scores on a folder of images: closed forms, and a tiny model's own round trip."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumina_jax.checkpoint import save_model
from lumina_jax.evals.reconstruction import psnr_db, ssim
from lumina_jax.image_files import open_image
from lumina_jax.official.__main__ import main
from lumina_jax.official.vqgan import codebook_use, vqgan_scores
from lumina_jax.unirep.image_tokens import fit_image


@pytest.fixture(scope="module")
def checkpoint(small_lumina, tmp_path_factory) -> Path:
    model = small_lumina
    path = tmp_path_factory.mktemp("checkpoint") / "model"
    return save_model(path, model.loaded.params, model.config, model.tokenizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Five pictures of two shapes and several modes."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for index, (size, mode) in enumerate(
        [((32, 32), "RGB"), ((64, 20), "RGB"), ((30, 31), "L"), ((40, 40), "RGBA"), ((70, 20), "P")]
    ):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{index}.png")
    return folder


def test_equal_images_have_ssim_one_and_noise_less() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 32, 3), np.uint8)
    assert ssim(image, image) == pytest.approx(1)
    assert abs(ssim(image, rng.integers(0, 256, image.shape, np.uint8))) < 0.1


def test_ssim_of_flat_images_equals_the_formula() -> None:
    dark, bright = (np.full((16, 16, 3), value, np.uint8) for value in (50, 100))
    c1 = (0.01 * 255) ** 2
    assert ssim(dark, bright) == pytest.approx((2 * 5000 + c1) / (2500 + 10000 + c1), rel=1e-6)
    with pytest.raises(ValueError, match="image of 8x8 px: SSIM wants 11 px"):
        ssim(dark[:8, :8], bright[:8, :8])


def test_codebook_use_of_even_and_single_codes() -> None:
    even = codebook_use(np.full(64, 3))
    assert (even["used"], even["share"]) == (64, 1.0)
    assert even["perplexity"] == pytest.approx(64)
    single = codebook_use(np.array([0, 9, 0, 0]))
    assert (single["used"], single["perplexity"], single["share"]) == (1, 1.0, 0.25)
    uneven = codebook_use(np.array([3, 1, 0, 0]))
    assert uneven["perplexity"] == pytest.approx(4 / 3**0.75)


@pytest.mark.slow
def test_scores_are_those_of_the_models_own_round_trip(
    checkpoint, folder, small_lumina, tmp_path, capsys
) -> None:
    found = vqgan_scores(checkpoint, folder, target_px=32, batch=2, progress=False)
    decibels, similarities, written = [], [], set()
    for path in sorted(folder.glob("*.png")):
        before = fit_image(open_image(path), 32, small_lumina.config.grid)
        ids = small_lumina.encode_image(path, 32)
        after = small_lumina.decode_image(ids)
        decibels.append(psnr_db(before, after))
        similarities.append(ssim(before, after))
        written |= {*ids.tolist()}
    assert found["psnr_db"]["score"] == pytest.approx(np.mean(decibels), abs=1e-3)
    assert found["ssim"]["score"] == pytest.approx(np.mean(similarities), abs=1e-4)
    vocab = small_lumina.tokenizer.vocab
    assert found["codebook"]["used"] == sum(bool(vocab.is_code(one)) for one in written)
    assert found["num_images"] == 5 and found["target_px"] == 32
    out = tmp_path / "scores.json"
    options = ["--checkpoint", str(checkpoint), "--target-px", "32", "--batch", "2"]
    main(["vqgan", str(folder), *options, "--out", str(out)])
    assert json.loads(out.read_text())["psnr_db"] == found["psnr_db"]
    assert "perplexity" in capsys.readouterr().out


def test_bad_image_is_named(checkpoint, tmp_path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="broken.png: cannot be read as an image"):
        vqgan_scores(checkpoint, tmp_path, progress=False)
    with pytest.raises(ValueError, match="want a batch and a limit of at least 1"):
        vqgan_scores(checkpoint, tmp_path, batch=0, progress=False)
