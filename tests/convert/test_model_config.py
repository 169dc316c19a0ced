"""What a release is taken for: that the conversations which the original holds fit the converted model."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lumina_jax.config import ModelConfig, VQGANConfig
from lumina_jax.convert.model_config import SourceOptions, model_config
from lumina_jax.model.presets import PRESETS
from lumina_jax.sampling.grammar import check_room
from lumina_jax.unirep.grid import crop_sizes, image_token_count


def converted(name: str, layout: str = "lumina", **options) -> ModelConfig:
    """The config of a released 7B, whose own says 4096 positions."""
    leaves = {"any": np.zeros(1, np.float32)}
    opened = SimpleNamespace(
        transformer=PRESETS["7b"].transformer, leaves=leaves, max_tokens=4096, layout=layout
    )
    return model_config(Path(name), opened, VQGANConfig(), SourceOptions(**options), {})


@pytest.mark.parametrize("px", [512, 768, 1024])
def test_picture_its_edit_and_their_words_fit_every_crop(px: int) -> None:
    config = converted(f"Lumina-mGPT-7B-{px}-Omni")
    assert (config.image_layout, config.target_px) == ("uni_rep", px)
    for size in crop_sizes(px, config.grid):
        asked = image_token_count(*size, config.grid) + 100
        check_room(*size, asked, config)


def test_sixteen_views_of_the_paper_fit() -> None:
    config = converted("Lumina-mGPT-7B-768-Omni")
    before = 15 * image_token_count(384, 384, config.grid) + 200
    check_room(384, 384, before, config)


def test_the_caller_and_chameleons_own_config_come_first() -> None:
    assert converted("Lumina-mGPT-7B-768", max_tokens=5000).max_tokens == 5000
    assert converted("Chameleon_7B_mGPT").max_tokens == 4096
