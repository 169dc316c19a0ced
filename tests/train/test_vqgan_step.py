"""The VQGAN's training step: it learns, keeps its codes in use, and is the same on any number of devices."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lumina_jax.config import VQGANConfig
from lumina_jax.experiment import OptimizerConfig, Stage, TrainConfig, VQGANLossConfig
from lumina_jax.train.vqgan_step import init_vqgan_state, make_vqgan_step, released_params
from lumina_jax.vqgan.quantise import Codebook

CONFIG = VQGANConfig(
    8, (1,), 1, z_channels=4, code_width=4, num_codes=32, num_groups=4, stem_px=8, separable=True
)
DECAY = 0.5
TRAIN = TrainConfig(
    stages=(Stage(1, 8, 1e-3, (("scenes", 1.0),)),), optimizer=OptimizerConfig(ema_decay=DECAY)
)
TX = optax.adam(5e-3)
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 2, 2, 3), np.uint8)
    return {"pixels": coarse.repeat(8, 1).repeat(8, 2)}


@pytest.fixture(scope="module")
def start():
    return init_vqgan_state(CONFIG, TRAIN, jax.random.key(0), TX)


@pytest.fixture(scope="module")
def step():
    return jax.jit(make_vqgan_step(CONFIG, TRAIN.vqgan_loss, TX, ema_decay=DECAY))


def test_loss_falls_on_a_fixed_batch(start, step, batch):
    state, first = step(start, batch, KEY)
    for index in range(60):
        state, last = step(state, batch, jax.random.fold_in(KEY, index))
    assert int(state.step) == 61
    assert float(last["loss"]) < 0.6 * float(first["loss"])
    assert float(last["psnr"]) > float(first["psnr"]) + 1
    assert float(last["usage"]) > 0.9


def test_step_is_a_pure_function(start, step, batch):
    results = [step(start, batch, KEY) for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert int(start.step) == 0


@pytest.mark.slow
def test_sharded_batch_equals_single_device(start, step, batch):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    pixels = jax.device_put(batch["pixels"], NamedSharding(mesh, PartitionSpec("data")))
    whole = jax.device_put(start, NamedSharding(mesh, PartitionSpec()))
    sharded, metrics = step(whole, {"pixels": pixels}, KEY)
    single, expected = step(start, batch, KEY)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(sharded.codebook.counts, single.codebook.counts, atol=1e-6)
    embeddings = (state.params["quantize"]["embedding"] for state in (sharded, single))
    np.testing.assert_allclose(*embeddings, atol=1e-5)


def test_codebook_is_the_average_behind_the_embedding(start, step, batch):
    state, metrics = step(start, batch, KEY)
    embedding = state.codebook.sums / state.codebook.counts[:, None]
    np.testing.assert_allclose(state.params["quantize"]["embedding"], embedding, rtol=1e-5)
    assert float(metrics["restarts"]) > 0  # nothing was in use before the first step


@pytest.mark.slow
def test_dead_code_is_restarted(start, step, batch):
    state, _ = step(start, batch, KEY)
    far = state.params["quantize"]["embedding"].at[5].set(1e3)
    codebook = Codebook(state.codebook.counts.at[5].set(0.0), state.codebook.sums.at[5].set(0.0))
    params = {**state.params, "quantize": {"embedding": far}}
    state, metrics = step(state._replace(params=params, codebook=codebook), batch, KEY)
    assert float(metrics["restarts"]) >= 1
    assert float(jnp.abs(state.params["quantize"]["embedding"][5]).max()) < 100


def test_average_is_kept_and_released_with_the_current_codebook(start, step, batch):
    state, _ = step(start, batch, KEY)
    released = released_params(state)
    before, after, average = (
        tree["decoder"]["conv_in"]["pointwise"]["kernel"]
        for tree in (start.params, state.params, released)
    )
    expected = before + 0.9 * (after - before)  # the first step's decay is 1/10
    np.testing.assert_allclose(average, expected, atol=1e-6)
    assert released["quantize"] is state.params["quantize"]


def test_without_an_average_the_parameters_are_released(start):
    assert released_params(start._replace(ema=None)) is start.params


@pytest.mark.slow
def test_discriminator_waits_for_its_step(batch):
    loss = VQGANLossConfig(adversarial=0.1, adversarial_start=2)
    train = replace(TRAIN, vqgan_loss=loss, optimizer=OptimizerConfig())
    state = init_vqgan_state(CONFIG, train, jax.random.key(0), TX)
    step = jax.jit(make_vqgan_step(CONFIG, loss, TX))
    first = state.discriminator["conv_0"]["kernel"]
    changed, adversarial = [], []
    for _ in range(4):
        state, metrics = step(state, batch, KEY)
        changed.append(bool((state.discriminator["conv_0"]["kernel"] != first).any()))
        adversarial.append(float(metrics["adversarial"]) != 0)
    assert changed == [False, False, True, True]
    assert adversarial == [False, False, True, True]


def test_without_adversarial_weight_no_discriminator_is_kept(start):
    assert start.discriminator is None
    assert start.discriminator_opt_state is None


def test_metrics_name_every_part(start, step, batch):
    _, metrics = step(start, batch, KEY)
    wanted = {"loss", "l1", "l2", "edge", "commitment", "psnr", "perplexity", "usage", "restarts"}
    assert wanted | {"grad_norm"} == set(metrics)
    parts = sum(
        getattr(TRAIN.vqgan_loss, name) * metrics[name]
        for name in ("l1", "l2", "edge", "commitment")
    )
    np.testing.assert_allclose(metrics["loss"], parts, rtol=1e-6)
