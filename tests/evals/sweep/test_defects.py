"""The original's defects: what each function measures, on pictures, labels and laws that are known."""

import copy

import numpy as np
import pytest
from PIL import Image

from lumina_jax.config import GridConfig
from lumina_jax.data.scenes.render import render
from lumina_jax.evals import protocol
from lumina_jax.evals.protocol import examples
from lumina_jax.evals.sweep.defects import crop, sizes, truncation, z_mask
from lumina_jax.evals.sweep.points import Amounts, Sweep
from lumina_jax.evals.sweep.sentences import images_of, text_and_images
from lumina_jax.unirep.grid import crop_sizes, image_token_count
from lumina_jax.unirep.image_tokens import resize_and_crop
from tests.evals.sweep.test_points import sweep_of


@pytest.mark.parametrize("index", range(7))  # every size
def test_the_centre_of_a_longer_picture_is_the_example(index):
    example = examples("segmentation", 7)[index]
    scene, size = example.truth.scene, example.truth.size
    longer = crop.longer_picture(scene, size)
    more = np.subtract(longer.shape[1::-1], size)
    assert sorted(more > 0) == [False, True] and more.max() == 2 * round(max(size) / 30)
    centre = np.asarray(resize_and_crop(Image.fromarray(longer), size))
    off = np.abs(centre.astype(int) - render(scene, *size))
    assert off.max() <= 1  # a taller ground has a flatter gradient; nothing else differs


def test_a_random_cut_is_another_part_of_the_same_picture():
    asked = examples("depth", 8)
    centre, random = [[crop.cut(each, r).turns[0].shown[0] for each in asked] for r in (0, 1)]
    assert all(a.shape == b.shape for a, b in zip(centre, random, strict=True))
    assert sum(not np.array_equal(a, b) for a, b in zip(centre, random, strict=True)) >= 6
    again = [crop.cut(each, True).turns[0].shown[0] for each in asked]
    assert all(np.array_equal(a, b) for a, b in zip(random, again, strict=True))


def test_the_unshifted_mask_leaves_out_one_place_of_every_answer():
    labels = np.array([[-100, -100, 7, 8, -100, 9, -100]])
    right, marked = z_mask.masks(labels)
    assert right[0].tolist() == [False, True, True, False, True, False, False]
    assert (right & ~marked).sum() == (marked & ~right).sum() == 2  # two answers


def test_conversations_are_counted_as_their_sentences_are_written(small_lumina, monkeypatch):
    monkeypatch.setattr(protocol, "SIZES_PX", ((64, 64),))
    counts = {task: text_and_images(examples(task, 1)[0], small_lumina.tokenizer) for task in
              ("text_to_image", "depth", "question", "next_edit", "multi_view")}  # fmt: skip
    assert [images for _, images in counts.values()] == [1, 2, 1, 3, 4]
    depth = examples("depth", 1)[0]
    said = small_lumina.tokenizer.encode(depth.turns[0].said.replace("<|image|>", ""))
    assert counts["depth"][0] == 1 + len(said) + 2 and len(images_of(depth)) == 2


def test_truncation_is_counted_over_all_sizes(small_lumina):
    sweep = Sweep(small_lumina, (), 0, lambda name, find: find(), Amounts(examples=2))
    found = truncation._counted(sweep)
    assert len(found) == 2 * len(protocol.EXAMPLES) * 3
    grid = GridConfig()
    text, images = text_and_images(examples("edit", 1)[0], small_lumina.tokenizer)
    tokens = np.array([text + images * image_token_count(*s, grid) for s in crop_sizes(768, grid)])
    row = next(row for row in found if row[:2] == (768, "edit"))
    assert row[2] == (tokens > 4096).mean() == 1
    assert row[3] == pytest.approx(np.mean((tokens - 4096) / tokens))
    assert next(row for row in found if row[:2] == (512, "edit"))[2:] == (0, 0)


def test_free_sizes_are_told_by_the_law_of_the_tokens(small_lumina):
    """Half of what follows the start token is a text id; of widths a quarter is a unit too many."""
    model, vocab = copy.copy(small_lumina), small_lumina.tokenizer.vocab
    text_id = vocab.size - 1
    sizes_of = range(vocab.first_size_id + 1, vocab.first_size_id + vocab.num_sizes)

    def logits(ids):
        found = np.full((*ids.shape, vocab.size), -np.inf, np.float32)
        sentences = iter(asked)
        for row, line in zip(ids, found, strict=True):
            height, width = next(sentences)
            at = int(np.argmax(row == vocab.image_start_id))
            assert row[at + 1] == height and height in sizes_of
            line[at, [text_id, height]] = 0
            line[at + 1, width], line[at + 1, width + 1] = np.log(3), 0
        return found

    sweep = sweep_of(small_lumina)
    unit_px = model.config.grid.unit_px
    asked = [
        (vocab.size_id(p.height_px // unit_px), vocab.size_id(p.width_px // unit_px))
        for p in sweep.prompts
    ]
    model.logits = logits
    found = sizes.free_sizes(sweep_of(model))
    assert found["score"] == pytest.approx(1 - 0.5 * 0.75) and found["n"] == 12
    assert found["no_height"]["score"] == pytest.approx(0.5)
    assert found["no_width"]["score"] == pytest.approx(0, abs=1e-6)
