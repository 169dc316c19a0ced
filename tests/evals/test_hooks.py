"""The training's `on_eval`: a sheet and scores from the state, at the area of the current stage."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from lumina_jax.data_config import DataConfig, RecordSource, ScenesSource
from lumina_jax.evals import hooks
from lumina_jax.evals.hooks import OnEval, make_on_eval, stage_size
from lumina_jax.evals.scores import CHOOSING_SEED
from lumina_jax.experiment import Experiment, Stage, TrainConfig


@pytest.fixture(scope="module")
def experiment(tiny_model):
    stages = tuple(
        Stage(steps, 1, 1e-3, ((name, 1.0),)) for name, steps in (("small", 10), ("large", 5))
    )
    data = DataConfig((ScenesSource("small", 64, 8), ScenesSource("large", 96, 8)))
    assets, train = str(tiny_model.path), TrainConfig(stages)
    return Experiment("transformer", tiny_model.config, data, train, assets=assets)


@pytest.fixture(scope="module")
def params(tiny_model):
    return tiny_model.params["transformer"]


def hook(experiment: Experiment, **options) -> OnEval:
    """That of a run which has one."""
    found = make_on_eval(experiment, **options)
    assert found is not None
    return found


@pytest.mark.parametrize("step, side_px", [(0, 64), (10, 64), (11, 96), (15, 96), (99, 96)])
def test_stage_size_is_that_of_the_steps_just_trained(experiment, step, side_px):
    assert stage_size(experiment, step) == (side_px, side_px)


def test_stage_size_is_the_models_own_in_chameleons_layout(experiment):
    model = replace(experiment.model, image_layout="chameleon", target_px=128)
    assert stage_size(replace(experiment, model=model), 0) == (128, 128)


@pytest.mark.slow
def test_transformer_hook_writes_a_sheet_and_scores(experiment, params, tmp_path):
    on_eval = hook(experiment, per_category=1)
    found = on_eval(SimpleNamespace(params=params, ema=None), 3, tmp_path)
    assert 0 <= found["eval_score"] <= 1 and len(found) == 7
    assert Image.open(tmp_path / "samples" / "000003.png").width > 6 * 64


@pytest.fixture
def asked(monkeypatch) -> list:
    """(first weight, texts, size, seeds) of every call of a painter that paints black."""
    asked = []

    class Painter:
        def __init__(self, config, weights, *_):
            self.weights = weights

        def generate(self, texts, size, seed):
            asked.append((jax.tree.leaves(self.weights)[0], texts, size, seed))
            pixels = np.zeros((size[1], size[0], 3), np.uint8)
            image = Image.fromarray(pixels)
            return [
                SimpleNamespace(pixels=pixels, image=image, size=size, prompt=text, seed=one)
                for text, one in zip(texts, seed, strict=True)
            ]

    monkeypatch.setattr(hooks, "Lumina", Painter)
    return asked


def test_transformer_hook_paints_with_the_average_at_the_stages_size(
    experiment, params, tmp_path, asked
):
    shown = replace(experiment, train=replace(experiment.train, eval_prompts=("a dome", "a ring")))
    average = jax.tree.map(lambda leaf: leaf + 1, params)
    hook(shown, per_category=1)(SimpleNamespace(params=params, ema=average), 12, tmp_path)
    ((weights, texts, size, seeds),) = asked
    assert np.array_equal(weights, jax.tree.leaves(average)[0])
    assert size == (96, 96) and texts[-2:] == ["a dome", "a ring"] and min(seeds) == CHOOSING_SEED


def test_a_run_on_records_paints_the_prompts_it_names_and_scores_nothing(
    experiment, params, tmp_path, asked
):
    """The score reads scenes: a run on photographs is not asked for it, and without prompts not stopped at all."""
    data = DataConfig(tuple(RecordSource(name, f"data/{name}") for name in ("small", "large")))
    run = replace(experiment, data=data)
    assert make_on_eval(run) is None
    named = replace(run, train=replace(run.train, eval_prompts=("a heron", "a quay")))
    assert hook(named)(SimpleNamespace(params=params, ema=None), 3, tmp_path) == {}
    assert [texts for _, texts, _, _ in asked] == [["a heron", "a quay"]]
    assert (tmp_path / "samples" / "000003.png").is_file()


def test_vqgan_hook_writes_pairs_and_scores(experiment, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "NUM_PICTURES", 1)
    on_eval = hook(replace(experiment, trainee="vqgan"))
    found = on_eval(SimpleNamespace(params=tiny_model.params["vqgan"], ema=None), 20, tmp_path)
    assert found["eval_psnr_db"] > 0 and found["eval_read_the_same"] == 0
    assert (tmp_path / "samples" / "000020.png").is_file()
