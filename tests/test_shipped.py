"""The model that ships: small, complete, and good enough to be shown."""

import jax
import jax.numpy as jnp
import pytest

from lumina_jax import Lumina
from lumina_jax.checkpoint import ASSETS, load_model
from lumina_jax.evals.prompts import eval_prompts
from lumina_jax.evals.reconstruction import reconstruction_scores, vqgan_round_trip
from lumina_jax.evals.scores import run, summary
from lumina_jax.model.presets import PRESETS

FOLDER = ASSETS / "scenes"
MOST_BYTES = 20 * 2**20
LEAST_PSNR_DB = 30.0
LEAST_READ = 0.97


def test_shipped_model_is_small_and_has_a_card():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < MOST_BYTES
    card = (FOLDER / "README.md").read_text()
    assert all(word in card for word in ("python train.py configs/scenes", "hardware", "score"))


def test_shipped_model_is_the_preset_in_bfloat16():
    model = load_model("scenes")
    assert model.config == PRESETS["scenes"]
    assert model.config.vqgan.num_codes >= 1000 and model.tokenizer.vocab.num_codes >= 1000
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {jnp.dtype("bfloat16")}


def test_shipped_files_name_no_path_of_a_machine():
    for file in FOLDER.rglob("*"):
        if file.is_file() and file.suffix != ".model":
            assert b"/params/" not in file.read_bytes(), file


@pytest.mark.slow
def test_shipped_vqgan_keeps_what_the_detector_reads():
    model = load_model("scenes", parts=("vqgan",))
    round_trip = vqgan_round_trip(model.params["vqgan"], model.config.vqgan)
    found = reconstruction_scores(round_trip, num_images=70, progress=False)
    assert found["psnr_db"]["render"]["score"] >= LEAST_PSNR_DB
    assert found["read_as_original"]["score"] >= LEAST_READ


@pytest.mark.slow
def test_shipped_model_paints_what_is_asked():
    prompts = eval_prompts(10, purpose="choose")
    found = summary(run(Lumina.load("scenes"), prompts, progress=False))
    assert found["overall"]["score"] >= 0.25  # noise scores 0; the card has the real score
