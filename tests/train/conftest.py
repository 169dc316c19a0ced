"""A training run of seconds: tiny weights, random records and pictures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lumina_jax.checkpoint import save_model
from lumina_jax.config import GridConfig, ModelConfig, TransformerConfig, VQGANConfig
from lumina_jax.data.records import make_record, pack_record
from lumina_jax.data.shards import finish, shard_name, write_shard
from lumina_jax.data_config import DataConfig, RecordSource, ScenesSource
from lumina_jax.experiment import Experiment, OptimizerConfig, Stage, TrainConfig
from lumina_jax.unirep.conversation import conversation_ids
from lumina_jax.unirep.image_tokens import image_sentence
from lumina_jax.unirep.tasks import text_to_image
from lumina_jax.vqgan.codec import abstract_vqgan

NUM_RECORDS = 24
TINY = ModelConfig(
    TransformerConfig(2, 16, 2, 1, 8, 32, 704),
    vqgan=VQGANConfig(8, (1,), 1, 8, 8, 64, num_groups=4, stem_px=16),
    grid=GridConfig(patch_px=16, unit_px=16, max_units=16),
    max_tokens=64,
    target_px=64,
)


@pytest.fixture(scope="session")
def tiny_assets(tmp_path_factory: pytest.TempPathFactory, small_tokenizer) -> Path:
    """A model checkpoint with a random VQGAN (drawn by numpy: no compilation) and the small tokenizer."""
    rng = np.random.default_rng(0)
    vqgan = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32), abstract_vqgan(TINY.vqgan)
    )
    params = {"vqgan": vqgan}
    return save_model(tmp_path_factory.mktemp("assets") / "tiny", params, TINY, small_tokenizer)


@pytest.fixture(scope="session")
def tiny_records(tmp_path_factory: pytest.TempPathFactory, small_tokenizer) -> Path:
    """A folder of two shards of text-to-image records of random codes."""
    return write_records(tmp_path_factory.mktemp("records"), small_tokenizer)


def write_records(folder: Path, small_tokenizer: Any, seed: int = 0) -> Path:
    """NUM_RECORDS in two shards, other codes for another seed."""
    rng = np.random.default_rng(seed)

    def record(index: int) -> bytes:
        columns = 2 + index % 3
        codes = rng.integers(0, 64, (3, columns))
        ids = image_sentence(codes, small_tokenizer.vocab, TINY.grid)
        prompt = text_to_image(columns * 16, 48, "a red circle")
        turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": "<|image|>"}]
        tokens, labels = conversation_ids(
            {"conversations": turns, "image": [0]}, small_tokenizer, lambda _: ids
        )
        return pack_record(make_record(tokens, labels, task="t2i", source="tiny", index=index))

    for shard in range(2):
        records = [record(index) for index in range(shard * 12, shard * 12 + 12)]
        write_shard(folder / shard_name(shard, 2), records)
    finish(folder, 24, {})
    return folder


@pytest.fixture
def tiny_run(tiny_assets: Path, tiny_records: Path) -> Callable[..., Experiment]:
    """`tiny_run(save_every=2)`: a transformer's Experiment of two stages of four steps, with fields replaced."""

    def build(**fields) -> Experiment:
        stage = Stage(4, 8, 1e-2, (("tiny", 1.0),), max_tokens=48, warmup_steps=1)
        stages = (stage, replace(stage, warmup_steps=0, final_ratio=0.1))
        settings = {"stages": stages, "log_every": 1, "save_every": 3, "eval_every": 0, **fields}
        sources = (RecordSource("tiny", str(tiny_records)),)
        train = TrainConfig(**settings)
        return Experiment("transformer", TINY, DataConfig(sources), train, assets=str(tiny_assets))

    return build


@pytest.fixture
def tiny_vqgan_run() -> Experiment:
    """A VQGAN's Experiment of four steps on eight pictures."""
    source = ScenesSource("pictures", 64, 8, sizes=((64, 64),), answers=0.5)
    stage = Stage(4, 8, 1e-3, (("pictures", 1.0),))
    optimizer = OptimizerConfig(ema_decay=0.9)
    train = TrainConfig((stage,), optimizer, log_every=1, save_every=2, eval_every=0)
    return Experiment("vqgan", TINY, DataConfig((source,)), train)
