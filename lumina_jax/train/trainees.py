"""What the loop trains: the transformer or the VQGAN, each as the same few functions."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.checkpoint import LoadedModel, digest, load_model, on_first_process, read_tokenizer
from lumina_jax.data.images import ensure_images, source_sizes
from lumina_jax.data.pipeline import PixelSource, Rows, pixel_batches, record_ids, token_batches
from lumina_jax.data.records import ensure_records
from lumina_jax.data.shards import open_shards
from lumina_jax.dims import pick
from lumina_jax.experiment import Experiment, RecordSource, ScenesSource
from lumina_jax.model.params import (
    abstract_params,
    init_params,
    param_letters,
    stack_layers,
    unstack_layers,
    with_codebook_tables,
)
from lumina_jax.sharding import Layout, param_shardings, replicated, state_shardings
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.flops import batch_flops
from lumina_jax.train.optimizer import make_optimizer
from lumina_jax.train.step import init_state, make_train_step
from lumina_jax.train.vqgan_step import init_vqgan_state, make_vqgan_step, released_params
from lumina_jax.unirep.vocab import Vocab
from lumina_jax.vqgan.codec import abstract_vqgan
from lumina_jax.vqgan.quantise import codebook_of

Batches = Iterator[dict[str, np.ndarray]]


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
    released: Callable[[Any], Any]  # state -> the weights to release, as they are trained; pure
    release: Callable[[Any], dict[str, Any]]  # state -> the trees of a model checkpoint
    tokenizer: Any  # what a model checkpoint carries beside its trees
    made_with: Mapping[str, str]  # digests of the assets that say what the ids mean
    # data folder -> step -> ["source#index", …] of its batch's records; None: they have no names
    record_ids: Callable[[str | Path], Callable[[int], list[str]]] | None = None
    flops: Callable[[Mapping[str, np.ndarray]], float] | None = None  # of a batch's step


def make_trainee(experiment: Experiment, curriculum: Curriculum, layout: Layout) -> Trainee:
    """The experiment's trainee on a mesh."""
    makers = {"transformer": _transformer, "vqgan": _vqgan}
    return pick(makers, experiment.trainee, "trainee")(experiment, curriculum, layout)


def _transformer(experiment: Experiment, curriculum: Curriculum, layout: Layout) -> Trainee:
    model, train = experiment.model, experiment.train
    config, ema_decay = model.transformer, train.optimizer.ema_decay
    assets = _assets(experiment)
    vqgan = jax.device_get(assets.params["vqgan"])
    optimizer = make_optimizer(train.optimizer, curriculum.learning_rate)

    def batches(data_dir: str | Path) -> Callable[[int], Batches]:
        records = _open_records(experiment, assets, data_dir)
        vocab, dropout = assets.tokenizer.vocab, train.loss.context_dropout
        seed = experiment.data.seed
        return lambda start: token_batches(
            records, curriculum, seed, vocab, dropout, start, _rows()
        )

    def record_ids_of(data_dir: str | Path) -> Callable[[int], list[str]]:
        records = _open_records(experiment, assets, data_dir)
        return partial(record_ids, records, curriculum, experiment.data.seed)

    def with_weights(state: Any, weights: Any) -> Any:
        weights = stack_layers(weights) if config.scan_layers else weights
        if train.zero_code_logits:
            weights = _without_code_logits(weights, assets.tokenizer.vocab)
        return init_state(_like(state.params, weights), optimizer, ema_decay)

    def weight_shardings() -> Any:
        on_disk = replace(config, scan_layers=False)
        return param_shardings(abstract_params(on_disk), param_letters(on_disk), layout)

    def release(state: Any) -> dict[str, Any]:
        params = _averaged_params(state)
        if config.scan_layers:  # each layer to its own shards, nothing gathered
            params = jax.jit(unstack_layers, out_shardings=weight_shardings())(params)
        return {"transformer": params, "vqgan": vqgan}

    def init(key: jax.Array) -> Any:
        params = init_params(config, key)
        if train.codebook_tables:
            codebook, table_key = vqgan["quantize"]["embedding"], jax.random.fold_in(key, 1)
            first_code_id = assets.tokenizer.vocab.first_code_id
            params = with_codebook_tables(params, codebook, first_code_id, table_key)
        return init_state(params, optimizer, ema_decay)

    return Trainee(
        init=init,
        with_weights=with_weights,
        weight_shardings=weight_shardings,
        step=make_train_step(model, train.loss, optimizer, ema_decay, layout),
        shardings=lambda state: state_shardings(state, param_letters(config), layout),
        batches=batches,
        released=_averaged_params,
        release=release,
        tokenizer=assets.tokenizer,
        made_with=_made_with(experiment.assets, assets.tokenizer),
        record_ids=record_ids_of,
        flops=partial(batch_flops, config),
    )


def _vqgan(experiment: Experiment, curriculum: Curriculum, layout: Layout) -> Trainee:
    model, train = experiment.model, experiment.train
    optimizer = make_optimizer(train.optimizer, curriculum.learning_rate)
    decay, workers = train.optimizer.ema_decay, experiment.data.num_workers

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
            sources, curriculum, experiment.data.seed, start, _rows()
        )

    def with_weights(state: Any, weights: Any) -> Any:
        weights = _like(state.params, weights)
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
        released=released_params,
        release=lambda state: {"vqgan": released_params(state)},
        tokenizer=_tokenizer_for(experiment),
        made_with={},
    )


def _averaged_params(state: Any) -> Any:
    """The average of the weights where it is kept, else the weights."""
    return state.params if state.ema is None else state.ema


def _open_records(
    experiment: Experiment, assets: LoadedModel, data_dir: str | Path
) -> dict[str, Any]:
    """The packed records of every source that the run mixes, tokenised where they are not there yet."""
    vqgan, workers = jax.device_get(assets.params["vqgan"]), experiment.data.num_workers

    def folder_of(source: ScenesSource | RecordSource) -> str | Path:
        if isinstance(source, RecordSource):
            return source.path
        model = experiment.model
        return _built_once(
            lambda: ensure_records(source, model, vqgan, assets.tokenizer, data_dir, workers)
        )

    return {source.name: open_shards(folder_of(source)) for source in _used_sources(experiment)}


def _without_code_logits(params: Mapping[str, Any], vocab: Vocab) -> dict[str, Any]:
    """The head starts neutral between image codes: Chameleon's release was kept from painting."""
    codes = slice(vocab.first_code_id, vocab.first_code_id + vocab.num_codes)
    table = params["head"]["table"].at[codes].set(0)
    return {**params, "head": {**params["head"], "table": table}}


def _built_once(build: Callable[[], Path]) -> Path:
    """A folder of data on storage that all processes of the cluster share, built by the first."""
    on_first_process(build)
    return build()


def _rows() -> Rows:
    return Rows(jax.process_index(), jax.process_count())


def _made_with(assets: str, tokenizer: Any) -> dict[str, str]:
    return {"vqgan": digest(assets, "vqgan"), "tokenizer": tokenizer.fingerprint}


def _tokenizer_for(experiment: Experiment) -> Any:
    """The tokenizer of a VQGAN run's assets, if it names as many codes: the released VQGAN then serves as assets."""
    tokenizer = read_tokenizer(experiment.assets)
    fits = tokenizer is not None and tokenizer.vocab.num_codes == experiment.model.vqgan.num_codes
    return tokenizer if fits else None


def _assets(experiment: Experiment) -> LoadedModel:
    """The VQGAN and tokenizer of a transformer run, checked against its model config."""
    model, path = experiment.model, experiment.assets
    assets = load_model(path, parts=("vqgan",))
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


def _used_sources(experiment: Experiment) -> list[ScenesSource | RecordSource]:
    """The sources that some stage mixes in; ValueError for a mixture that names none of them."""
    by_name = {source.name: source for source in experiment.data.sources}
    if len(by_name) < len(experiment.data.sources):
        raise ValueError("data.sources: two sources have the same name")
    used = {name for stage in experiment.train.stages for name, _ in stage.mixture}
    for name in sorted(used):
        pick(by_name, name, "source in a stage's mixture")
    return [source for source in experiment.data.sources if source.name in used]


def _like(wanted: Any, found: Any) -> Any:
    """`found` with the dtypes of `wanted`; ValueError naming the first leaf that differs in path or shape."""
    if jax.tree.structure(wanted) != jax.tree.structure(found):
        raise ValueError("--init: the checkpoint's tree of weights differs from the run's model")

    def checked(path: tuple, want: Any, got: Any) -> Any:
        if want.shape != got.shape:
            name = jax.tree_util.keystr(path)
            raise ValueError(f"--init: {name} is {got.shape} in the checkpoint, want {want.shape}")
        return got.astype(want.dtype)

    return jax.tree_util.tree_map_with_path(checked, wanted, found)
