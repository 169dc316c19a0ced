"""Every run file loads, and its step can be built."""

import json
import shlex
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from lumina_jax.cli import load_run_file, parse_arguments
from lumina_jax.config_json import config_from_dict, config_to_dict
from lumina_jax.convert.__main__ import Convert
from lumina_jax.data.images import source_sizes
from lumina_jax.data.pretokenize.__main__ import Options
from lumina_jax.data.recipes import Conversation, draw_scene, make_conversation
from lumina_jax.data.scenes.captions import held_out_text
from lumina_jax.data.scenes.scene import RESERVED_COLOURS, RESERVED_SHAPES, held_out
from lumina_jax.data_config import RecordSource, ScenesSource
from lumina_jax.evals.hooks import make_on_eval
from lumina_jax.experiment import Experiment, LossConfig
from lumina_jax.model.params import count_params, init_params, param_letters
from lumina_jax.sharding import batch_sharding, make_layout, replicated, state_shardings
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.optimizer import make_optimizer
from lumina_jax.train.step import init_state, make_train_step
from lumina_jax.train.trained_part import trained_part
from lumina_jax.train.vqgan_step import init_vqgan_state, make_vqgan_step

ROOT = Path(__file__).resolve().parent.parent
RUN_FILES = sorted((ROOT / "configs").glob("*.py"))


def step_and_state(experiment: Experiment, layout: Any = None) -> tuple[Any, Any]:
    """The step, and its state as shapes."""
    train, model = experiment.train, experiment.model
    curriculum = Curriculum(train.stages)
    optimizer = make_optimizer(train.optimizer, curriculum.learning_rate)
    decay, key = train.optimizer.ema_decay, jax.random.key(0)
    if experiment.trainee == "vqgan":
        state = jax.eval_shape(lambda k: init_vqgan_state(model.vqgan, train, k, optimizer), key)
        return make_vqgan_step(model.vqgan, train.vqgan_loss, optimizer, ema_decay=decay), state
    part, parts = trained_part(train, model.transformer), train.accumulation

    def start(key: Any) -> Any:
        trained, frozen = part.divide(init_params(model.transformer, key), key)
        return init_state(trained, optimizer, decay, frozen)

    packed = any(stage.layout == "packed" for stage in train.stages)
    make = partial(make_train_step, model, train.loss, optimizer, decay, layout, packed)
    step = make(accumulation=parts, assemble=part.assemble)
    return step, jax.eval_shape(start, key)


def token_batch(batch_size: int, max_tokens: int, sharding: Any = None) -> dict[str, Any]:
    names = ("tokens", "labels", "segment_ids", "positions")
    shape = (batch_size, max_tokens)
    return {name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding) for name in names}


def batches_of(experiment: Experiment) -> list[dict[str, Any]]:
    """An abstract batch for every shape the run meets."""
    stages, sources = experiment.train.stages, {s.name: s for s in experiment.data.sources}
    if experiment.trainee == "transformer":
        return [token_batch(stage.batch_size, stage.max_tokens) for stage in stages]
    shapes = set()
    for stage in stages:
        for name, _ in stage.mixture:
            source = sources[name]
            assert isinstance(source, ScenesSource)
            sizes = source_sizes(source, experiment.model.grid)
            sizes = [(source.crop_px,) * 2] if source.crop_px else sizes
            shapes |= {(stage.batch_size, height, width, 3) for width, height in sizes}
    return [{"pixels": jax.ShapeDtypeStruct(shape, jnp.uint8)} for shape in sorted(shapes)]


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_run_file_loads_and_survives_json(path: Path):
    experiment = load_run_file(path)
    content = json.loads(json.dumps(config_to_dict(experiment)))
    assert config_from_dict(Experiment, content) == experiment
    known = {source.name for source in experiment.data.sources}
    mixed = {name for stage in experiment.train.stages for name, _ in stage.mixture}
    assert mixed | {experiment.train.eval_source} - {""} == known


def captions_of(made: Conversation) -> list[str]:
    """The sentences about the scene: of a conversation of several turns the first one's, where it has one."""
    asked, answer = (turn["value"] for turn in made.turns[:2])
    if made.task == "describe":
        return [answer]
    told = [*asked.splitlines()[1:], *asked.split("prompt: ")[1:]]
    assert told or made.task not in ("text_to_image", "image_condition", "multi_view")
    return [caption.removesuffix(" <|image|>") for caption in told]


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_transformer_runs_keep_what_is_held_out_from_training(path: Path):
    """Sentences, pairs and looks as the run itself would make them, some of every source and size.

    Adapters alone may be shown one of the reserved shapes: to learn it is what they are for.
    """
    experiment = load_run_file(path)
    drawn = [s for s in experiment.data.sources if isinstance(s, ScenesSource)]
    for source in drawn if experiment.trainee == "transformer" else []:
        assert not source.reserved
        names = {*RESERVED_SHAPES, *RESERVED_COLOURS}
        assert source.shows not in names or experiment.train.lora is not None
        sizes = source_sizes(source, experiment.model.grid)
        for index in range(60):
            size = sizes[index % len(sizes)]
            made = make_conversation(source, size, index)
            words = made.turns[0]["value"]
            assert all(held_out_text(caption) is None for caption in captions_of(made))
            strange = names - {source.shows}
            assert not strange & {*words.replace(",", "").split()}
            things = draw_scene(source, size, index).objects
            seen = {name for thing in things for name in (thing.shape, thing.colour)}
            assert not strange & seen and (not source.shows or source.shows in seen)
            looks = [(thing.colour, thing.shape) for thing in things]
            assert not any(held_out(*pair) for pair in combinations(looks, 2))


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_run_file_says_its_command_and_hardware(path: Path):
    card = path.read_text().split('"""')[1]
    assert f"python train.py configs/{path.name} --workdir" in card
    assert "Hardware:" in card and "Expected:" in card


def commands_of(name: str, module: str) -> list[list[str]]:
    """The arguments of the command lines of `module` in a run card."""
    card = (ROOT / "configs" / f"{name}.py").read_text().split('"""')[1]
    lines = [line.strip() for line in card.replace("\\\n", "").splitlines()]
    start = f"python -m lumina_jax.{module} "
    return [shlex.split(line.removeprefix(start)) for line in lines if line.startswith(start)]


@pytest.mark.parametrize("name", ["fp_sft_7b", "lora_7b"])
def test_run_cards_make_the_records_that_their_runs_read(name: str):
    experiment = load_run_file(ROOT / "configs" / f"{name}.py")
    made = [
        parse_arguments(Options, line, prog="") for line in commands_of(name, "data.pretokenize")
    ]
    paths = {source.path for source in experiment.data.sources if isinstance(source, RecordSource)}
    others = {"data/pairs_768", "data/pairs_1024"} if name == "fp_sft_7b" else set()
    assert {str(options.dst) for options in made} == paths - others
    for options in made:
        assert options.tokenise.checkpoint == experiment.assets
        assert options.tokenise.max_tokens == experiment.model.max_tokens
        assert set(options.tokenise.target_px) <= {512, 768, 1024}


@pytest.mark.parametrize("name", ["fp_sft_7b", "fp_sft_34b"])
def test_run_cards_convert_chameleon_to_images_of_any_shape(name: str):
    """Converted as it is, records would be made in its own layout: squares, and prompts without a size."""
    (line,) = commands_of(name, "convert")
    command = parse_arguments(Convert, line, prog="")
    assert str(command.destination) == load_run_file(ROOT / "configs" / f"{name}.py").assets
    assert command.options.image_layout == "uni_rep"


@pytest.mark.parametrize("name", ["fp_sft_7b", "fp_sft_34b"])
def test_progressive_runs_keep_checkpoints_and_log_a_held_out_loss(name: str):
    experiment = load_run_file(ROOT / "configs" / f"{name}.py")
    train = experiment.train
    assert train.keep_every % train.save_every == 0 < train.keep_every
    assert train.eval_source and train.eval_every > 0
    assert make_on_eval(experiment) is None  # no scenes are painted


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_run_file_builds(path: Path):
    experiment = load_run_file(path)
    step, state = step_and_state(experiment)
    batch = batches_of(experiment)[-1]
    after, metrics = jax.eval_shape(step, state, batch, jax.random.key(0))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert metrics["loss"].shape == ()


def test_7b_step_lowers_on_a_mesh_of_eight():
    experiment = load_run_file(ROOT / "configs" / "fp_sft_7b.py")
    layout = make_layout(experiment.train.mesh)
    step, state = step_and_state(experiment, layout)
    assert count_params(state.params) == 7_013_158_912
    places = state_shardings(state, param_letters(experiment.model.transformer), layout)
    rows, whole = batch_sharding(layout), replicated(layout)
    stage = experiment.train.stages[-1]
    lowered = jax.jit(
        step, in_shardings=(places, rows, whole), out_shardings=(places, whole)
    ).lower(state, token_batch(stage.batch_size, stage.max_tokens), jax.random.key(0))
    assert "num_partitions = 8" in lowered.as_text()[:400]
    shards = [
        place.shard_shape(leaf.shape)
        for leaf, place in zip(jax.tree.leaves(state), jax.tree.leaves(places), strict=True)
    ]
    on_one = sum(jnp.prod(jnp.array(shape, jnp.float32)).item() for shape in shards)
    assert on_one < count_params(state) / 7.9


def test_7b_run_keeps_the_originals_figures():
    train = load_run_file(ROOT / "configs" / "fp_sft_7b.py").train
    optimizer = train.optimizer
    assert (optimizer.b1, optimizer.b2, optimizer.weight_decay) == (0.9, 0.95, 0.1)
    assert optimizer.clip_norm == 4.0 and train.loss.z_loss == 1e-5
    assert {stage.learning_rate for stage in train.stages} == {2e-5}
    assert {stage.final_ratio for stage in train.stages} == {1.0}


@pytest.mark.parametrize("name", ["fp_sft_7b", "fp_sft_34b"])
def test_every_stage_of_the_progressive_runs_warms_up_from_nothing(name: str):
    """The original starts a run of its own for every area; each warms up over 0.01 epoch."""
    curriculum = Curriculum(load_run_file(ROOT / "configs" / f"{name}.py").train.stages)
    assert len(curriculum.stages) == 3
    for start in curriculum.stage_starts():
        found = [float(curriculum.learning_rate(start + step)) for step in (0, 195, 390, 391)]
        assert found == pytest.approx([0.0, 1e-5, 2e-5, 2e-5])


def test_logits_that_fill_a_device_are_refused():
    """2 x 8192 x 65,536 float32 are 4 GiB. A half of it is let through, and any amount in chunks."""
    run = load_run_file(ROOT / "configs" / "fp_sft_7b.py")
    stage = replace(run.train.stages[0], batch_size=4, max_tokens=8192)
    train = replace(run.train, stages=(stage,), accumulation=4, loss=LossConfig())
    assert replace(run, train=train).train.loss.logits_chunk == 0
    with pytest.raises(ValueError, match=r"2 x 8192 tokens are 4.0 GiB; set train.loss.logits_c"):
        replace(run, train=replace(train, accumulation=2))
    chunked = replace(train, accumulation=1, loss=LossConfig(logits_chunk=512))
    assert replace(run, train=chunked).train.accumulation == 1


def test_7b_adapters_need_a_base_in_bfloat16_and_little_else():
    """The run card's count: 40.0 million float32 numbers beside 14.0 GB, and moments for them alone."""
    _, state = step_and_state(load_run_file(ROOT / "configs" / "lora_7b.py"))
    assert count_params(state.frozen) == 7_013_158_912
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.frozen)} == {"bfloat16"}
    assert count_params(state.params) == 39_976_960
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * 39_976_960
