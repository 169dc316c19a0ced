"""Model sizes by name. 7b and 34b are the released Chameleon and Lumina-mGPT sizes (arXiv 2405.09818, table 1)."""

from collections.abc import Mapping

from lumina_jax.config import GridConfig, ModelConfig, TransformerConfig, VQGANConfig

PRESETS: Mapping[str, ModelConfig] = {
    "scenes": ModelConfig(
        TransformerConfig(
            num_layers=6,
            width=128,
            num_heads=4,
            num_kv_heads=4,
            head_size=32,
            mlp_width=352,
            vocab_size=2048,
        ),
        vqgan=VQGANConfig(
            stem_px=8,
            channels=96,
            channel_multipliers=(1, 2),
            num_res_blocks=1,
            z_channels=32,
            code_width=16,
            num_codes=1024,
            num_groups=1,
            norm="pixel",
            separable=True,
        ),
        grid=GridConfig(patch_px=16, unit_px=16),
        max_tokens=512,
        target_px=128,
    ),
    "7b": ModelConfig(
        TransformerConfig(
            num_layers=32,
            width=4096,
            num_heads=32,
            num_kv_heads=32,
            head_size=128,
            mlp_width=11008,
            vocab_size=65536,
            dropout=0.05,
        )
    ),
    "34b": ModelConfig(
        TransformerConfig(
            num_layers=48,
            width=8192,
            num_heads=64,
            num_kv_heads=8,
            head_size=128,
            mlp_width=22016,
            vocab_size=65536,
            norm_placement="swin",
            qk_norm_shards=4,
        )
    ),
}
