"""A run file of a tiny transformer, whose layers are stacked and whose data is nowhere."""

from pathlib import Path

import pytest

RUN_FILE = '''
"""A tiny run."""
from dataclasses import replace

from lumina_jax.config import TransformerConfig
from lumina_jax.data_config import DataConfig, RecordSource
from lumina_jax.experiment import Experiment, LossConfig, MeshConfig, Stage, TrainConfig
from lumina_jax.model.presets import PRESETS


def get_config():
    transformer = TransformerConfig(
        3, 256, 2, 2, 128, 512, 1024, compute_dtype="bfloat16", scan_layers=True, remat="full"
    )
    stage = Stage(10, 8, 1e-4, (("a", 1.0),), max_tokens=256, layout="packed")
    train = TrainConfig(
        (stage, replace(stage, max_tokens=512)),
        loss=LossConfig(logits_chunk=512),
        mesh=MeshConfig("fsdp", (("fsdp", -1),)),
    )
    model = replace(PRESETS["7b"], transformer=transformer)
    data = DataConfig((RecordSource("a", "nowhere"),))
    return Experiment("transformer", model, data, train, assets="nowhere")
'''


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    """Its path."""
    path = tmp_path / "tiny.py"
    path.write_text(RUN_FILE, encoding="utf-8")
    return str(path)
