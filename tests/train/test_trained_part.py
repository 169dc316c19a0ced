"""What is frozen stays as it is, and costs no optimiser state, no average and no place in a checkpoint of adapters."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.checkpoint import load_model, save_model
from lumina_jax.convert.adapters import read_adapter
from lumina_jax.experiment import Experiment, LoraConfig, MeshConfig, OptimizerConfig
from lumina_jax.model.lora import adapted, merge
from lumina_jax.model.params import abstract_params, find_weights
from lumina_jax.sharding import batch_sharding, make_layout
from lumina_jax.train import loop
from lumina_jax.train.checkpoints import TrainCheckpoints
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.loop import train
from lumina_jax.train.metrics import read_metrics
from lumina_jax.train.trained_part import divided, joined
from lumina_jax.train.trainees import make_trainee
from lumina_jax.train.workdir import claim_workdir
from tests.train.processes import CLOCK

SETTING = "train.trainable"
LORA = LoraConfig(rank=2, alpha=4.0, targets=("q", "v", "down"))


def scanned(experiment: Experiment) -> Experiment:
    transformer = replace(experiment.model.transformer, scan_layers=True)
    return replace(experiment, model=replace(experiment.model, transformer=transformer))


def rows(workdir: Path) -> list[dict[str, float]]:
    """Logged metrics of the steps, without what the clock says."""
    found = [row for row in read_metrics(workdir) if "loss" in row]
    return [{n: row[n] for n in row if n not in CLOCK} for row in found]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_assets: Path) -> Callable[[int], Path]:
    """`base(1)`: a model checkpoint of random weights, another for every number."""
    assets = load_model(tiny_assets)

    def make(number: int) -> Path:
        rng = np.random.default_rng(number)
        weights = jax.tree.map(
            lambda leaf: (0.2 * rng.standard_normal(leaf.shape)).astype(np.float32),
            abstract_params(assets.config.transformer),
        )
        folder = tmp_path_factory.mktemp("base")
        params = {"transformer": weights, "vqgan": assets.params["vqgan"]}
        return save_model(folder / "model", params, assets.config, assets.tokenizer)

    return make


def test_names_are_found_by_regex_and_all_others_listed(tiny_run):
    config = tiny_run().model.transformer
    params = abstract_params(config)
    found = find_weights(params, ("layers/.*/(gate|up|down)", "^head"), SETTING)
    mlps = {f"layers/{i}/{name}" for i in ("00", "01") for name in ("gate", "up", "down")}
    assert found == {*mlps, "head/table"}
    with pytest.raises(ValueError, match=r"'mlps' is in no weight's name; there are embed/table, .*"
                       r"head/table, layers/\*/attention_norm/scale"):  # fmt: skip
        find_weights(params, ("head", "mlps"), SETTING)


def test_layers_in_one_array_are_found_all_or_none(tiny_run):
    config = scanned(tiny_run()).model.transformer
    params = abstract_params(config)
    assert find_weights(params, ("layers/../q$",), SETTING) == {"layers/q"}
    with pytest.raises(ValueError, match="finds 1 of 2 layers of layers/q: with scan_layers"):
        find_weights(params, ("layers/01/q$",), SETTING)
    with pytest.raises(ValueError, match=r"'layers/gate' is in no .* there are .*layers/\*/gate,"):
        find_weights(params, ("layers/gate",), SETTING)


def test_a_divided_tree_is_joined_again():
    tree = {"a": {"b": 1, "c": 2}, "d": 3, "e": {"f": 4}}
    first, second = divided(tree, {"a/b", "e/f"})
    assert first == {"a": {"b": 1}, "e": {"f": 4}} and second == {"a": {"c": 2}, "d": 3}
    assert joined(first, second) == tree == joined(second, first)
    assert divided(tree, {"a/b", "a/c", "d", "e/f"}) == (tree, {})


def stepped(experiment: Experiment, mesh: Any = None, init: Path | None = None) -> tuple[Any, ...]:
    """(state before, after one step, metrics), on the mesh if there is one; weights and batch from numpy."""
    layout = make_layout(
        mesh or MeshConfig(axes=(("data", 1),)), None if mesh else jax.devices()[:1]
    )
    curriculum = Curriculum(experiment.train.stages)
    trainee = make_trainee(experiment, curriculum, layout, init)
    rng, key = np.random.default_rng(5), jax.random.key(0)
    places = trainee.shardings(jax.eval_shape(trainee.init, key))
    abstract = jax.eval_shape(trainee.init, key)
    state = jax.tree.map(
        lambda leaf, place: jax.device_put(
            jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), place
        ),
        abstract,
        places,
    )
    moments = jax.tree.map(  # none yet, and past the first step, whose rate is 0
        lambda leaf: (jnp.zeros_like if leaf.ndim else jnp.ones_like)(leaf), state.opt_state
    )
    state = state._replace(step=jnp.int32(1), opt_state=moments)
    tokens = rng.integers(0, 700, (8, 12)).astype(np.int32)
    batch = {"tokens": tokens, "labels": tokens, "segment_ids": np.ones_like(tokens)}
    batch["positions"] = np.broadcast_to(np.arange(12, dtype=np.int32), tokens.shape).copy()
    batch = jax.device_put(batch, batch_sharding(layout))
    options = {"xla_backend_optimization_level": 0}
    step = jax.jit(trainee.step, out_shardings=(places, None), compiler_options=options)
    return state, *step(state, batch, key)


def test_frozen_weights_have_no_gradient_no_moments_and_no_average(tiny_run):
    optimizer = OptimizerConfig(ema_decay=0.9)
    experiment = tiny_run(trainable=("layers/.*/(gate|up|down)",), optimizer=optimizer)
    before, after, _ = stepped(experiment)
    names = {"gate", "up", "down"}
    for tree in (after.params, after.ema):
        assert {name: set(layer) for name, layer in tree["layers"].items()} == {
            "00": names,
            "01": names,
        }
        assert set(tree) == {"layers"}
    num_trained = len(jax.tree.leaves(after.params))
    moments = [leaf for leaf in jax.tree.leaves(after.opt_state) if leaf.ndim > 0]
    assert len(moments) == 2 * num_trained == 12
    jax.tree.map(np.testing.assert_array_equal, before.frozen, after.frozen)
    for one, other in zip(
        jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True
    ):
        assert (np.asarray(one) != np.asarray(other)).all()


@pytest.mark.slow
@pytest.mark.parametrize(("stack", "second"), [(False, "data"), (True, "tensor")])
def test_adapters_on_a_mesh_step_as_on_one_device(tiny_run, base, stack: bool, second: str):
    optimizer = OptimizerConfig(eps=1e-2)  # smooth in the gradient, see test_step.py
    axes = {"data": (("data", 2), ("fsdp", 4)), "tensor": (("fsdp", 4), ("tensor", 2))}[second]
    experiment = tiny_run(
        lora=replace(LORA, targets=("q", "o", "gate", "down")), optimizer=optimizer
    )
    experiment = scanned(experiment) if stack else experiment
    transformer = replace(experiment.model.transformer, num_kv_heads=2)  # as many as tensor splits
    experiment = replace(experiment, model=replace(experiment.model, transformer=transformer))
    mesh, init = MeshConfig("_".join(name for name, _ in axes), axes), base(0)
    _, one, metrics = stepped(experiment, init=init)
    _, other, again = stepped(experiment, mesh, init)
    for a, b in zip(jax.tree.leaves((one, metrics)), jax.tree.leaves((other, again)), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=2e-5, rtol=1e-5)
    layer = other.params["layers"] if stack else other.params["layers"]["00"]
    a, b, heads = layer["q"]["a"], layer["o"]["b"], layer["q"]["b"]
    assert heads.sharding.shard_shape(heads.shape)[-2] == (1 if second == "tensor" else 2)
    assert a.sharding.shard_shape(a.shape)[-2] == 16 // 4  # D over fsdp
    assert b.sharding.shard_shape(b.shape)[-1] == 16 // 4
    assert b.sharding.shard_shape(b.shape)[-2] == 2  # the rank whole


def test_adapters_want_the_model_they_adapt_and_no_other(tiny_run, base, tmp_path: Path):
    """The base is in no checkpoint of the run, so the workdir remembers its digest."""
    experiment = tiny_run(lora=LORA)
    with pytest.raises(ValueError, match="name it with --init, also when the run is resumed"):
        train(experiment, tmp_path)

    def claim(init: Path) -> None:
        layout = make_layout(experiment.train.mesh)
        trainee = make_trainee(experiment, Curriculum(experiment.train.stages), layout, init)
        claim_workdir(experiment, tmp_path, trainee.made_with)

    first, second = base(1), base(2)
    claim(first)
    claim(first)
    with pytest.raises(ValueError, match="holds a run of another config .assets.base: "):
        claim(second)


def test_adapters_and_a_selection_exclude_each_other(tiny_run, tiny_vqgan_run):
    with pytest.raises(ValueError, match="lora and trainable: adapters or weights"):
        tiny_run(lora=LORA, trainable=("q",))
    with pytest.raises(ValueError, match="lora and zero_code_logits: adapters leave the head"):
        tiny_run(lora=LORA, zero_code_logits=True)
    with pytest.raises(ValueError, match="for transformers: a VQGAN trains whole"):
        replace(tiny_vqgan_run, train=replace(tiny_vqgan_run.train, lora=LORA))


@pytest.mark.slow
def test_adapter_run_interrupted_equals_uninterrupted_and_releases_what_it_trained(
    tiny_run, base, tmp_path: Path
):
    """Checkpoints hold no base; the released weights are the base with the exported adapter merged."""

    class Crash(Exception):
        pass

    def crash(state: Any, step: int, workdir: Path) -> dict[str, float]:
        assert set(state.params) == {
            "embed",
            "layers",
            "final_norm",
            "head",
        }  # whole, to be looked at
        if step == 5:
            raise Crash
        return {}

    init, optimizer = base(3), OptimizerConfig(ema_decay=0.5)
    experiment = tiny_run(lora=replace(LORA, dropout=0.1), optimizer=optimizer)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(experiment, whole, init=init)
    with pytest.raises(Crash):
        train(
            replace(experiment, train=replace(experiment.train, eval_every=1)),
            broken,
            init=init,
            on_eval=crash,
        )
    train(experiment, broken, init=init)
    assert rows(whole) == rows(broken) and len(rows(whole)) == 8
    assert rows(whole)[-1]["loss"] < rows(whole)[0]["loss"]
    before, one, other = (
        load_model(folder).params["transformer"]
        for folder in (init, whole / "model", broken / "model")
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)
    config = experiment.model.transformer
    lora, adapters = read_adapter(whole / "adapter", config)
    assert lora == experiment.train.lora
    merged = merge(adapted(before, adapters, config, lora))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, merged)
    assert (np.asarray(one["layers"]["00"]["q"]) != np.asarray(before["layers"]["00"]["q"])).any()
    np.testing.assert_array_equal(one["layers"]["00"]["k"], before["layers"]["00"]["k"])
    checkpoints = TrainCheckpoints(whole)
    names = checkpoints._orbax.checkpointables_metadata(8).metadata["state"]
    checkpoints.close()
    assert any(re.match(r"params\.layers\.00\.q\.a", name) for name in names)
    assert not [name for name in names if "frozen" in name or "embed" in name]


@pytest.mark.slow
def test_adapters_are_released_before_the_model_that_says_so(
    tiny_run, base, tmp_path: Path, monkeypatch
):
    """A kill between the two is mended by starting again, which looks at the model alone."""
    init, experiment = base(3), tiny_run(lora=LORA, save_every=100)

    class Crash(Exception):
        pass

    def crash(*_: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(loop, "save_model", crash)
        train(experiment, tmp_path, init=init)
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    train(experiment, tmp_path, init=init)
    assert (tmp_path / "model" / "config.json").is_file()


@pytest.mark.slow
def test_a_selection_trains_through_the_loop_and_leaves_the_rest(tiny_run, base, tmp_path: Path):
    init = base(4)
    experiment = scanned(tiny_run(trainable=("layers/.*/(gate|up|down)",), save_every=3))
    train(experiment, tmp_path, init=init)
    before, after = (load_model(f).params["transformer"] for f in (init, tmp_path / "model"))
    changed = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True
        )
        if (np.asarray(a) != np.asarray(b)).any()
    }
    assert changed == {f"layers/{i}/{n}" for i in ("00", "01") for n in ("gate", "up", "down")}
    lines = (tmp_path / "metrics.jsonl").read_text()
    train(experiment, tmp_path)  # its checkpoints hold the frozen weights too
    assert (tmp_path / "metrics.jsonl").read_text() == lines
