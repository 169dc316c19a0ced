"""What becomes of images that nothing forces."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax.evals.ablate import unforced
from lumina_jax.evals.ablate.unforced import FATES, fate, fates, unforced_images
from lumina_jax.evals.prompts import Include, Prompt
from lumina_jax.lumina import Lumina
from lumina_jax.unirep.image_tokens import image_sentence

WIDE = (64, 32)  # 8 px a code: 4 rows of 8
PROMPT = Prompt("colors", "a red star", (Include("star", "red"),), width_px=64, height_px=32)


def of_layout(model: Lumina, layout: str) -> Lumina:
    config = replace(model.config, image_layout=layout)
    return Lumina(config, model.params, model.vqgan_params, model.tokenizer)


def sentence(model: Lumina, rows: int, columns: int) -> np.ndarray:
    vocab, config = model.tokenizer.vocab, model.config
    return image_sentence(np.zeros((rows, columns), int), vocab, config.grid, config.image_layout)


@pytest.mark.parametrize("layout", ["uni_rep", "plain"])
def test_fates_are_told_apart(small_lumina: Lumina, layout: str) -> None:
    model = of_layout(small_lumina, layout)
    vocab = model.tokenizer.vocab
    right = sentence(model, 4, 8)
    broken, endless = right.copy(), right[:-1]
    broken[5] = vocab.sep_id
    assert fate(np.append(right, vocab.sep_id), WIDE, model) == "decodable"
    assert fate(np.append(right, [9, 9]), WIDE, model) == "decodable"  # what follows is not judged
    assert fate(sentence(model, 4, 6), WIDE, model) == "wrong size"
    for ids in (broken, endless, np.delete(right, -3) if layout == "uni_rep" else broken):
        assert fate(ids, WIDE, model) == "unparsable"
    for ids in (right[1:], np.array([vocab.sep_id]), right[:0]):
        assert fate(ids, WIDE, model) == "no image"


def test_a_transposed_image_is_wrong_only_where_the_sentence_tells(small_lumina: Lumina) -> None:
    """Without size tokens nothing in it says so: as many codes are as many codes."""
    found = {
        layout: fate(
            sentence(of_layout(small_lumina, layout), 8, 4), WIDE, of_layout(small_lumina, layout)
        )
        for layout in ("uni_rep", "plain")
    }
    assert found == {"uni_rep": "wrong size", "plain": "decodable"}


def test_every_token_may_be_drawn_and_an_image_goes_on_after_its_start(
    small_lumina: Lumina, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocab, calls = small_lumina.tokenizer.vocab, []
    whole = sentence(small_lumina, 4, 8)
    begun = [whole[:1], np.array([vocab.sep_id])]

    def drawn(model, jobs):
        calls.append(jobs)
        return begun if len(calls) == 1 else [whole[1:]] * len(jobs)

    monkeypatch.setattr(unforced, "draw_texts", drawn)
    answers = unforced_images(small_lumina, [PROMPT, PROMPT], first_seed=7)
    assert [ids.tolist() for ids in answers] == [whole.tolist(), [vocab.sep_id]]
    firsts, (later,) = calls
    assert [job.seed for job in firsts] == [7, 8]
    assert all(job.limit == 1 and len(job.allowed) == vocab.size for job in firsts)
    assert (later.seed, later.first_index, later.context[-1]) == (7, 1, vocab.image_start_id)
    assert later.limit == 2 * len(whole) - 1 and len(later.allowed) == vocab.size
    calls.clear()
    assert fates(small_lumina, [PROMPT, PROMPT]) == {
        "decodable": 0.5,
        "wrong size": 0.0,
        "unparsable": 0.0,
        "no image": 0.5,
    }


@pytest.mark.slow
def test_random_weights_write_no_images(small_lumina: Lumina) -> None:
    found = fates(small_lumina, [PROMPT] * 4)
    assert tuple(found) == FATES and sum(found.values()) == 1
    assert found["decodable"] == 0
