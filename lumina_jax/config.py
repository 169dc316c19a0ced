"""What a model is and how it draws: frozen dataclasses, one line a field with unit and source, checked when built.

Sources: [M] Meta's Chameleon release, [L] Lumina-mGPT's code, [P] arXiv 2408.02657, [C] arXiv 2405.09818;
numbers without a tag are this project's own choice for its small model.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

IMAGE_LAYOUTS = ("uni_rep", "chameleon", "plain")
CACHE_DTYPES = ("float32", "bfloat16", "float16", "int8")
Remat = Literal[  # the rows of model.remat.REMAT
    "none",
    "full",
    "dots",
    "save_qkv",
    "save_attention",
    "save_out_proj",
    "minimal",
    "offload_qkv",
    "offload_projections",
]


def require(condition: bool, message: str) -> None:
    """Raise a ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class TransformerConfig:
    """A Chameleon decoder; the sizes live in `model/presets.py`."""

    num_layers: int  # L
    width: int  # D
    num_heads: int  # N
    num_kv_heads: int  # K; < N is grouped-query attention
    head_size: int  # H; even, for half-split RoPE
    mlp_width: int  # F, SwiGLU
    vocab_size: int  # V
    norm_placement: Literal["pre", "swin"] = "pre"  # swin: 34B norms the branch output [M, C 2.3]
    qk_norm_shards: int = 1  # shards of the release, each with its own q/k-norm affine [M]
    norm_eps: float = 1e-5  # RMSNorm and q/k LayerNorm [M]
    rope_theta: float = 10_000.0  # [M]
    dropout: float = 0.0  # on both residual branches before the add [L]
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    cache_dtype: str | None = (
        None  # of cached keys and values; int8 has scales; None: compute_dtype
    )
    # of the layers' products in training, a row of ops.low_precision.RULES; "": compute_dtype
    matmul_dtype: Literal["", "int8", "fp8"] = ""
    scan_layers: bool = False  # one compiled block over stacked weights: trains deep models
    remat: Remat = "none"  # what the backward pass recomputes and what it finds kept

    def __post_init__(self) -> None:
        require(
            self.num_heads % self.num_kv_heads == 0, "num_heads must be a multiple of num_kv_heads"
        )
        require(
            self.num_kv_heads % self.qk_norm_shards == 0,
            "num_kv_heads must be a multiple of qk_norm_shards",
        )
        require(self.head_size % 2 == 0, "head_size must be even: RoPE rotates halves")
        require(
            self.norm_placement in ("pre", "swin"),
            f"norm_placement {self.norm_placement!r}: 'pre' or 'swin'",
        )
        require(
            self.cache_dtype in (None, *CACHE_DTYPES),
            f"cache_dtype {self.cache_dtype!r}: None or one of {CACHE_DTYPES}",
        )
        require(0.0 <= self.dropout < 1.0, f"dropout {self.dropout} must lie in [0, 1)")
        require(
            self.matmul_dtype in ("", "int8", "fp8"),
            f"matmul_dtype {self.matmul_dtype!r}: '', 'int8' or 'fp8'",
        )
        require(self.remat in get_args(Remat), f"remat {self.remat!r}: one of {get_args(Remat)}")


@dataclass(frozen=True)
class VQGANConfig:
    """The image tokenizer: taming-transformers' VQModel, with an optional space-to-depth stem."""

    channels: int = 128  # width at full resolution [M]
    # one entry a level, /2 between levels [M]
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2  # per encoder level; the decoder has one more [M]
    z_channels: int = 256  # [M]
    code_width: int = 256  # E [M]
    num_codes: int = 8192  # M [M]
    num_groups: int = 32  # GroupNorm [M]
    norm: Literal["group", "pixel"] = (
        "group"  # statistics over the image [M], or of each pixel alone
    )
    stem_px: int = 1  # space-to-depth factor before conv_in (and depth-to-space after conv_out); 1 in Chameleon
    dropout: float = 0.0
    # 3x3 convolutions as 3x3 per channel then 1x1, for small models; Chameleon: plain
    separable: bool = False
    normalise_codes: bool = False  # cosine distance on l2-normalised codes; Chameleon: Euclidean
    has_decoder: bool = True  # False: read from transformers' files, which hold none; only encodes

    @property
    def patch_px(self) -> int:
        """Pixels per code along each side: 16 in Chameleon."""
        return self.stem_px * 2 ** (len(self.channel_multipliers) - 1)


@dataclass(frozen=True)
class GridConfig:
    """How image sizes become tokens (Uni-Rep)."""

    patch_px: int = 16  # pixels per code [M]
    unit_px: int = 32  # pixels per step of the height and width tokens [L]
    max_ratio: float = 4.0  # longest side / shortest side of an allowed crop [L]
    max_units: int = 64  # largest side in units with a size token of its own

    def __post_init__(self) -> None:
        require(self.unit_px % self.patch_px == 0, "unit_px must be a multiple of patch_px")


@dataclass(frozen=True)
class ModelConfig:
    """What a checkpoint is: enough to rebuild every module and read every id."""

    transformer: TransformerConfig
    vqgan: VQGANConfig = VQGANConfig()
    grid: GridConfig = GridConfig()
    # what an image sentence holds beside its codes, a row of unirep.grid.FORCED_IDS: with "chameleon", whose images
    # are all of target_px, and "plain", of any size that words tell, nothing but start and end
    image_layout: Literal["uni_rep", "chameleon", "plain"] = "uni_rep"
    max_tokens: int = 4096  # longest sequence the model was trained for
    target_px: int = 512  # side of the square whose area the last stage trained

    def __post_init__(self) -> None:
        require(
            self.image_layout in IMAGE_LAYOUTS,
            f"image_layout {self.image_layout!r}: one of {IMAGE_LAYOUTS}",
        )
        require(
            self.grid.patch_px == self.vqgan.patch_px, "grid.patch_px must equal the VQGAN's patch"
        )


MAX_SCALE = 1e6  # of guidance and temperature: float32 holds what they are multiplied with


@dataclass(frozen=True)
class TaskSampling:
    """How answers to one task are drawn; None leaves what the row of `unirep.tasks.TASKS` says."""

    task: str  # that row's name
    guidance: float | None = None
    temperature: float | None = None
    image_top_k: int | None = None
    text_top_k: int | None = None

    def __post_init__(self) -> None:
        SampleConfig(**self.settings)  # its limits

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of SampleConfig that it sets."""
        named = {name: value for name, value in vars(self).items() if value is not None}
        return {name: value for name, value in named.items() if name != "task"}


@dataclass(frozen=True)
class SampleConfig:
    """How an image is drawn. Defaults as in the paper [P App. F]."""

    guidance: float = 4.0  # 1 switches it off; 3 with image_guidance [M]
    # pull of the prompt's images alone, in a third stream; None: two streams. Meta's: 1.2 [M]
    image_guidance: float | None = None
    # in place of `guidance`: its scale from the first row of codes to the last, knots evenly spread, linear between
    guidance_schedule: tuple[float, ...] = ()
    temperature: float = 1.0  # 0.7 in Chameleon [M]
    image_top_k: int = 2000
    # the likeliest of the image_top_k codes that have this probability together; 0.9 in Chameleon [M]
    image_top_p: float = 1.0
    image_min_p: float = (
        0.0  # least probability of a code, in shares of the likeliest one's; 0 is off
    )
    text_top_k: int = 10
    grammar: Literal["exact", "original"] = "exact"  # exact: the asked size, always decodable
    decoder: str = "sequential"  # a row of sampling.DECODERS
    window: int = 16  # tokens a pass of the decoders "jacobi" and "coupled"
    drafts: str = "above"  # their first guesses: a row of sampling.drafts.DRAFTS
    branches: tuple[int, ...] = ()  # depths of single second guesses beside their window
    lag: int = 4  # codes by which each row of the decoder "staggered" trails the one above it
    by_task: tuple[TaskSampling, ...] = ()  # what a checkpoint's own settings are for its tasks

    def __post_init__(self) -> None:
        for name in ("guidance", "image_guidance"):
            scale = 0 if (given := getattr(self, name)) is None else given
            require(
                0 <= scale <= MAX_SCALE,
                f"{name} {scale}: want a finite number >= 0, at most {MAX_SCALE:g}",
            )
        require(
            all(0 <= scale <= MAX_SCALE for scale in self.guidance_schedule),
            f"guidance_schedule {self.guidance_schedule}: want finite numbers >= 0, at most {MAX_SCALE:g}",
        )
        require(
            1 / MAX_SCALE <= self.temperature <= MAX_SCALE,
            f"temperature {self.temperature}: want > 0, {1 / MAX_SCALE:g} to {MAX_SCALE:g} (top-k 1 is greedy)",
        )
        for name in ("image_top_k", "text_top_k"):
            top_k = getattr(self, name)
            require(1 <= top_k < 2**31, f"{name} {top_k}: top-k must be at least 1, below 2^31")
        require(0 < self.image_top_p <= 1, f"image_top_p {self.image_top_p}: want > 0, at most 1")
        require(0 <= self.image_min_p < 1, f"image_min_p {self.image_min_p}: want >= 0, below 1")
        require(1 <= self.window <= 1024, f"window {self.window}: want 1 to 1024 tokens")
        require(self.lag >= 1, f"lag {self.lag}: want at least 1 code")
        require(
            all(1 <= depth < self.window for depth in self.branches),
            f"branches {self.branches}: want depths from 1 to {self.window - 1}, inside the window",
        )
        require(
            self.grammar in ("exact", "original"),
            f"grammar {self.grammar!r}: 'exact' or 'original'",
        )
        require(
            self.image_guidance is None or self.grammar == "exact",
            "image_guidance: grammar 'original' has no stream for it; want grammar 'exact'",
        )
        require(
            not self.guidance_schedule or self.grammar == "exact",
            "guidance_schedule: grammar 'original' does not know its rows; want grammar 'exact'",
        )

    @property
    def has_schedule(self) -> bool:
        """Whether the scale of the first step depends on the row; a schedule of ones has no step at all."""
        return bool(self.guidance_schedule and self.guidance_scales)

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        """The scale of each step between the streams of a request, of which there is one more.

        With a schedule the first is that of the first row.
        """
        scales = self.guidance_schedule or (self.guidance,)
        if self.image_guidance is not None:
            return scales[0], self.image_guidance
        return () if set(scales) == {1} else scales[:1]
