"""What the loop trains: the transformer or the VQGAN, each as the same few functions."""

from collections.abc import Callable, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.checkpoint import LoadedModel, digest, load_model, on_first_process, read_tokenizer
from lumina_jax.data.images import ensure_images, source_sizes
from lumina_jax.data.pixels import PixelSource, pixel_batches
from lumina_jax.data.records import ensure_records
from lumina_jax.data.shards import open_shards
from lumina_jax.data.sources import batches_of, check_made_with, record_ids_of, records_digest
from lumina_jax.data.stepwise import Rows
from lumina_jax.data_config import RecordSource, ScenesSource
from lumina_jax.dims import pick
from lumina_jax.experiment import Experiment
from lumina_jax.sharding import Layout, batch_sharding, replicated
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.flops import batch_flops
from lumina_jax.train.optimizer import make_optimizer
from lumina_jax.train.placing import process_rows
from lumina_jax.train.program import transformer_steps
from lumina_jax.train.trained_part import base_digest
from lumina_jax.train.trainee_weights import like, weight_functions
from lumina_jax.train.vqgan_step import init_vqgan_state, make_vqgan_step, released_params
from lumina_jax.unirep.tasks import TASKS
from lumina_jax.vqgan.codec import abstract_vqgan
from lumina_jax.vqgan.quantise import codebook_of

Batches = Generator[dict[str, np.ndarray], None, None]  # closed by who asks for them


def _as_it_is(state: Any) -> Any:
    return state


class Trainee(NamedTuple):
    """Everything the loop needs to know of what it trains."""

    init: Callable[[jax.Array], Any]  # key -> state; pure
    with_weights: Callable[[Any, Any], Any]  # (state, a checkpoint's weights) -> state; pure
    weight_shardings: Callable[[], Any]  # where a checkpoint's weights are loaded to
    step: Callable[[Any, Mapping[str, Any], jax.Array], tuple[Any, dict[str, Any]]]
    shardings: Callable[[Any], Any]  # abstract state -> tree of shardings
    batches: Callable[
        [str | Path], Callable[[int], Batches]
    ]  # data folder -> first step -> batches
    rows: Rows  # of every batch, those that this process loads
    released: Callable[[Any], Any]  # state -> the weights to release, as they are trained; pure
    release: Callable[[Any], dict[str, Any]]  # state -> the trees of a model checkpoint
    tokenizer: Any  # what a model checkpoint carries beside its trees
    made_with: Mapping[str, str]  # digests of the assets that say what the ids mean
    # data folder -> step -> names of its batch's records; None: they have none
    record_ids: Callable[[str | Path], Callable[[int], list[str]]] | None = None
    flops: Callable[[Mapping[str, np.ndarray]], float] | None = None  # of a batch's step
    # a state as a checkpoint keeps it; what it lacks comes with the weights of --init, at every start
    saved: Callable[[Any], Any] = _as_it_is
    needs_init: bool = False
    whole: Callable[[Any], Any] = _as_it_is  # with all weights in `params`, to be looked at
    export: Callable[[Any, Path], None] | None = None  # writes what stands beside `model/`


def make_trainee(
    experiment: Experiment,
    curriculum: Curriculum,
    layout: Layout,
    init: str | Path | None = None,
) -> Trainee:
    """The experiment's trainee on a mesh; ValueError for adapters without `init`, the checkpoint they adapt."""
    if experiment.trainee == "transformer":
        return _transformer(experiment, curriculum, layout, init)
    return pick({"vqgan": _vqgan}, experiment.trainee, "trainee")(experiment, curriculum, layout)


def _transformer(
    experiment: Experiment, curriculum: Curriculum, layout: Layout, init_path: str | Path | None
) -> Trainee:
    model, train = experiment.model, experiment.train
    assets = _assets(experiment)
    vqgan, vocab = assets.params["vqgan"], assets.tokenizer.vocab
    made_with = _made_with(experiment.assets, assets.tokenizer)
    rows = process_rows(batch_sharding(layout))
    codes = vocab.first_code_id, vocab.num_codes
    steps = transformer_steps(experiment, curriculum, layout, codes)
    base = base_digest(init_path) if steps.part.adapts else {}

    def folders_of(data_dir: str | Path) -> dict[str, str | Path]:
        return {source.name: folder_of(source, data_dir) for source in _used_sources(experiment)}

    def batches(data_dir: str | Path) -> Callable[[int], Batches]:
        return batches_of(experiment, curriculum, folders_of(data_dir), vocab, rows)

    check_sizes_told(experiment)

    def folder_of(source: ScenesSource | RecordSource, data_dir: str | Path) -> str | Path:
        if isinstance(source, RecordSource):
            check_made_with(source.path, made_with)
            return source.path
        workers = experiment.data.num_workers
        return _built_once(
            lambda: ensure_records(source, model, vqgan, assets.tokenizer, data_dir, workers)
        )

    return Trainee(
        step=steps.step,
        shardings=steps.shardings,
        **weight_functions(experiment, assets, steps, layout),
        batches=batches,
        rows=rows,
        tokenizer=assets.tokenizer,
        made_with={**made_with, **base, **_records_digests(experiment)},
        record_ids=lambda data_dir: record_ids_of(experiment, curriculum, folders_of(data_dir)),
        flops=partial(batch_flops, model.transformer, lora=train.lora),
        needs_init=steps.part.adapts,
    )


def _vqgan(experiment: Experiment, curriculum: Curriculum, layout: Layout) -> Trainee:
    model, train = experiment.model, experiment.train
    optimizer = make_optimizer(train.optimizer, curriculum.learning_rate)
    decay, workers = train.optimizer.ema_decay, experiment.data.num_workers
    rows = process_rows(batch_sharding(layout))

    def batches(data_dir: str | Path) -> Callable[[int], Batches]:
        sources = {}
        for source in _used_sources(experiment):
            if not isinstance(source, ScenesSource):
                raise ValueError(
                    f"source {source.name}: the VQGAN trains on images, not on records"
                )
            folder = _built_once(partial(ensure_images, source, model.grid, data_dir, workers))
            num_sizes = len(source_sizes(source, model.grid))
            sources[source.name] = PixelSource(open_shards(folder), num_sizes, source.crop_px)
        return lambda start: pixel_batches(
            sources, curriculum, experiment.data.seed, start, rows, workers
        )

    def with_weights(state: Any, weights: Any) -> Any:
        weights = like(state.params, weights)
        ema = None if state.ema is None else jax.tree.map(jnp.copy, weights)
        codebook = codebook_of(weights["quantize"]["embedding"])
        return state._replace(params=weights, ema=ema, codebook=codebook)

    return Trainee(
        init=lambda key: init_vqgan_state(model.vqgan, train, key, optimizer),
        with_weights=with_weights,
        weight_shardings=lambda: jax.tree.map(
            lambda _: replicated(layout), abstract_vqgan(model.vqgan)
        ),
        step=make_vqgan_step(model.vqgan, train.vqgan_loss, optimizer, ema_decay=decay),
        shardings=lambda state: jax.tree.map(lambda _: replicated(layout), state),
        batches=batches,
        rows=rows,
        released=released_params,
        release=lambda state: {"vqgan": released_params(state)},
        tokenizer=_tokenizer_for(experiment),
        made_with={},
    )


def _built_once(build: Callable[[], Path]) -> Path:
    """A folder of data on storage that all processes of the cluster share, built by the first."""
    on_first_process(build)
    return build()


def _records_digests(experiment: Experiment) -> dict[str, str]:
    """Of the folders that stages train on: a run is resumed on the records it was begun with, or not at all."""
    return {
        f"records of {source.name}": records_digest(source.path)
        for source in _used_sources(experiment)
        if isinstance(source, RecordSource)
    }


def _made_with(assets: str, tokenizer: Any) -> dict[str, str]:
    return {"vqgan": digest(assets, "vqgan"), "tokenizer": tokenizer.fingerprint}


def _tokenizer_for(experiment: Experiment) -> Any:
    """The tokenizer of a VQGAN run's assets, if it names as many codes: the released VQGAN then serves as assets."""
    tokenizer = read_tokenizer(experiment.assets)
    fits = tokenizer is not None and tokenizer.vocab.num_codes == experiment.model.vqgan.num_codes
    return tokenizer if fits else None


def _assets(experiment: Experiment) -> LoadedModel:
    """The VQGAN, on the host, and tokenizer of a transformer run, checked against its model config."""
    model, path = experiment.model, experiment.assets
    assets = load_model(path, parts=("vqgan",))
    assets = assets._replace(params=jax.device_get(assets.params))
    if assets.tokenizer is None:
        raise ValueError(
            f"assets {path}: no tokenizer in it; add tokenizer.model or text_tokenizer.json"
        )
    vocab, room = assets.tokenizer.vocab, model.transformer.vocab_size
    if assets.config.vqgan != model.vqgan:
        raise ValueError(
            f"assets {path}: a VQGAN of {assets.config.vqgan}, the run's is {model.vqgan}"
        )
    if vocab.num_codes != model.vqgan.num_codes:
        raise ValueError(
            f"assets {path}: the tokenizer names {vocab.num_codes} image codes, the VQGAN has "
            f"{model.vqgan.num_codes}"
        )
    if vocab.size > room:
        raise ValueError(f"assets {path}: {vocab.size} token ids, the run's vocab_size is {room}")
    return assets


def check_sizes_told(experiment: Experiment) -> None:
    """ValueError where the scenes of a run of the layout "plain" hold answers whose size nothing tells."""
    if experiment.model.image_layout != "plain":
        return
    for source in _used_sources(experiment):
        tasks = source.tasks if isinstance(source, ScenesSource) else ()
        for task, _ in tasks:
            row = pick(TASKS, task, "task of a scenes source")
            if not row.tells_size or task == "chat":  # whose earlier turns are edits
                raise ValueError(
                    f"source {source.name}: the prompt of task {task!r} does not tell the size of its answer, nor do "
                    "images of the layout 'plain'; leave it out, or train the layout 'uni_rep'"
                )


def _used_sources(experiment: Experiment) -> list[ScenesSource | RecordSource]:
    """The sources that some stage mixes in; ValueError for a mixture that names none of them."""
    by_name = {source.name: source for source in experiment.data.sources}
    if len(by_name) < len(experiment.data.sources):
        raise ValueError("data.sources: two sources have the same name")
    used = experiment.train.mixed_sources
    for name in sorted(used):
        pick(by_name, name, "source in a stage's mixture")
    return [source for source in experiment.data.sources if source.name in used]
