"""The evaluation's prompts: six categories, many sizes, sentences and pairs that training never shows."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lumina_jax.data.scenes.captions import caption, held_out_text
from lumina_jax.data.scenes.detector import detect
from lumina_jax.data.scenes.render import render
from lumina_jax.data.scenes.scene import (
    RESERVED_COLOURS,
    RESERVED_SHAPES,
    Scene,
    held_out,
    relation,
    sample_scene,
)
from lumina_jax.evals.judge import exactly_as_asked, judge
from lumina_jax.evals.prompts import CATEGORIES, SIZES_PX, candidates, eval_prompts

PROMPTS = eval_prompts(100)


def scene_for(prompt, rng):
    """A scene that shows exactly what a prompt asks, found by trying and recolouring."""
    wanted = [(want.shape, want.colour) for want in prompt.include for _ in range(want.count)]
    kind = "count" if prompt.exact else {1: "single", 2: "two"}[len(wanted)]
    while True:
        scene = sample_scene(rng, prompt.width_px, prompt.height_px, kind=kind, allow_held_out=True)
        if len(scene.objects) != len(wanted):
            continue
        objects = []
        for thing, (shape, colour) in zip(scene.objects, wanted, strict=True):
            pose = ("down", "out", "apart") if shape == "figure" else None
            objects.append(replace(thing, shape=shape, colour=colour or thing.colour, pose=pose))
        told = prompt.relation is None or relation(objects[0], objects[1]) == prompt.relation[1]
        if told:
            background = prompt.background or scene.background
            return Scene(scene.width, scene.height, background, tuple(objects), kind)


def read(scene, prompt):
    """What the detector sees of a scene drawn at the prompt's size."""
    return detect(render(scene, prompt.width_px, prompt.height_px))


def test_prompts_have_six_categories_of_equal_number():
    assert Counter(prompt.category for prompt in PROMPTS) == dict.fromkeys(CATEGORIES, 100)


def test_prompts_are_the_same_every_time():
    assert eval_prompts(100) == PROMPTS
    assert eval_prompts(100, seed=1) != PROMPTS


def test_prompts_cover_every_size_in_every_category():
    sizes = {(p.category, p.width_px, p.height_px) for p in PROMPTS}
    assert len(SIZES_PX) >= 5 and len(sizes) == len(CATEGORIES) * len(SIZES_PX)
    assert all(side % 16 == 0 for size in SIZES_PX for side in size)


def test_prompts_are_held_out_sentences():
    assert {held_out_text(prompt.text) for prompt in PROMPTS} == {"eval"}


def test_prompts_for_choosing_are_other_sentences():
    choosing = eval_prompts(100, purpose="choose")
    assert {held_out_text(prompt.text) for prompt in choosing} == {"choose"}


def test_reserved_prompts_each_name_a_shape_kept_from_training_and_others_none():
    asked = eval_prompts(30, reserved=RESERVED_SHAPES)
    assert Counter(prompt.category for prompt in asked) == dict.fromkeys(CATEGORIES, 30)
    assert {held_out_text(prompt.text) for prompt in asked} == {"eval"}
    named = [{want.shape for want in p.include} & {*RESERVED_SHAPES} for p in asked]
    assert all(named) and set().union(*named) == {*RESERVED_SHAPES}
    assert all(set(p.text.split()) & {"gem", "gems", "arch", "arches"} for p in asked)
    assert not [p for p in PROMPTS for want in p.include if want.shape in RESERVED_SHAPES]
    assert not {want.colour for p in asked for want in p.include} & {*RESERVED_COLOURS}
    gems = eval_prompts(30, reserved=("gem",))
    assert {want.shape for p in gems for want in p.include} & {*RESERVED_SHAPES} == {"gem"}
    with pytest.raises(ValueError, match="unknown reserved shape 'gems'"):
        eval_prompts(1, reserved=("gems",))


def test_prompts_of_two_coloured_objects_name_held_out_pairs_alone():
    pairs = [p.include for p in PROMPTS if p.category == "color_attr"]
    looks = [[(str(want.colour), want.shape) for want in include] for include in pairs]
    assert len(looks) == 100 and all(held_out(*pair) for pair in looks)


def test_prompts_use_only_words_of_captions():
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, 128, 128) for _ in range(600)]
    told = [caption(scene, rng) for scene in scenes for _ in range(4)]
    words = {word for text in told for word in text.split()}
    assert {word for prompt in PROMPTS for word in prompt.text.split()} <= words


@pytest.mark.parametrize("category", CATEGORIES)
def test_candidates_are_distinct_sentences(category):
    texts = [prompt.text for prompt in candidates(category, "eval")]
    assert len(texts) >= 30 and len(set(texts)) == len(texts)


def test_judge_accepts_true_renders_of_every_category():
    rng = np.random.default_rng(1)
    some = eval_prompts(3, seed=2)
    seen = [(prompt, read(scene_for(prompt, rng), prompt)) for prompt in some]
    assert [(p.text, d) for p, d in seen if not exactly_as_asked(p, d)] == []


@pytest.mark.slow
def test_judge_accepts_true_renders_of_all_prompts():
    rng = np.random.default_rng(3)
    right = [judge(prompt, read(scene_for(prompt, rng), prompt)) for prompt in PROMPTS]
    assert np.mean(right) >= 0.99


@pytest.mark.parametrize("category", CATEGORIES[1:])
def test_judge_refuses_most_other_scenes(category):
    rng = np.random.default_rng(4)
    asked = [prompt for prompt in PROMPTS if prompt.category == category][:12]
    other = [sample_scene(rng, p.width_px, p.height_px) for p in asked]
    right = [judge(p, read(scene, p)) for p, scene in zip(asked, other, strict=True)]
    assert np.mean(right) <= 0.25


def test_judge_refuses_the_opposite_relation():
    rng = np.random.default_rng(5)
    asked = [prompt for prompt in PROMPTS if prompt.category == "position"][:10]
    for prompt in asked:
        scene = scene_for(prompt, rng)
        first, second = scene.objects
        swapped = (replace(first, x=second.x, y=second.y), replace(second, x=first.x, y=first.y))
        radii = {first.radius, second.radius}
        if len(radii) == 1:  # else one may stick out of the canvas
            assert judge(prompt, read(replace(scene, objects=swapped), prompt)) is False


def test_no_sentence_comes_twice_at_one_size():
    prompts = eval_prompts(100)
    assert len({(p.text, p.width_px, p.height_px) for p in prompts}) == 600
    assert len({p.text for p in prompts}) == 465  # said in docs/benchmarks.md
