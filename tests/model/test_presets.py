"""Every preset is whole: its numbers agree with one another."""

import pytest

from lumina_jax.model.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_preset_has_room_for_its_codes_and_heads(name):
    """The vocabulary holds the VQGAN's codes; the heads' total width is the model's."""
    model = PRESETS[name]
    assert model.transformer.vocab_size > model.vqgan.num_codes
    assert model.transformer.num_heads * model.transformer.head_size == model.transformer.width
    widths = [model.vqgan.channels * multiplier for multiplier in model.vqgan.channel_multipliers]
    assert all(width % model.vqgan.num_groups == 0 for width in widths)
