"""What a run is: stages, optimiser, losses, mesh; frozen dataclasses like those of `config.py`. Data: `data_config.py`.

Sources: [L] Lumina-mGPT's code, [M] Meta's Chameleon release, [P] arXiv 2408.02657; numbers without a tag are this
project's own choice for its small model.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from lumina_jax.config import ModelConfig, SampleConfig, require
from lumina_jax.data_config import DataConfig, origin

LAYOUTS = ("padded", "packed", "buckets")
MAX_LOGITS_GIB = 4  # of a micro-batch, float32, over all devices
LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class Stage:
    """One stage of the weak-to-strong curriculum: how long, at which rate, on which mixture."""

    steps: int  # optimiser steps
    batch_size: int  # sequences (images for a VQGAN) per step, over all devices
    learning_rate: float  # peak
    # (source name, weight): shares of rows, so of records, with "packed" of bins (about of tokens), with
    # "buckets" of batches; sources fix area and sizes
    mixture: tuple[tuple[str, float], ...]
    max_tokens: int = 4096  # S; `DataConfig.too_long`: what becomes of longer records
    # what a row is: a record and padding, a bin of whole records, or a record of a batch of similar lengths
    layout: Literal["padded", "packed", "buckets"] = "padded"
    buckets: tuple[int, ...] = ()  # "buckets": the S a batch may have, rising to max_tokens
    warmup_steps: int = 0  # linear, from warmup_from
    # the rate; None: the previous stage's last, 0 in the first. 0.0: as in a run of the stage's own [L]
    warmup_from: float | None = None
    # cosine decay to learning_rate * final_ratio at the stage's end; 1 keeps it [L]
    final_ratio: float = 1.0

    def __post_init__(self) -> None:
        require(self.steps > 0, f"stage of {self.steps} steps: want at least 1")
        require(self.batch_size > 0, f"batch_size {self.batch_size}: want at least 1")
        require(0 <= self.warmup_steps <= self.steps, "warmup_steps must lie within the stage")
        require((self.warmup_from or 0) >= 0, f"warmup_from {self.warmup_from}: want 0 or more")
        require(bool(self.mixture), "a stage needs at least one (source, weight) in its mixture")
        for name, weight in self.mixture:
            require(weight > 0, f"mixture: weight {weight} of {name}: want more than 0")
        require(self.layout in LAYOUTS, f"layout {self.layout!r}: want one of {', '.join(LAYOUTS)}")
        ends = self.buckets[-1:] == (self.max_tokens,) if self.layout == "buckets" else True
        rising = self.buckets == tuple(sorted({size for size in self.buckets if size > 0}))
        require(
            ends and rising,
            f"buckets {self.buckets}: want rising sizes, the last of them max_tokens {self.max_tokens}",
        )
        require(
            self.layout == "buckets" or not self.buckets,
            f"buckets {self.buckets}: layout {self.layout!r} has none; want layout 'buckets'",
        )


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW [P] or Muon for the matrices of small models."""

    name: Literal["adamw", "muon"] = "adamw"
    b1: float = 0.9  # [P]
    b2: float = 0.95  # [P]
    eps: float = 1e-8  # [L]
    weight_decay: float = 0.1  # on every parameter, as the original [L]
    clip_norm: float = 4.0  # global L2 [L]
    adam_ratio: float = 1.0  # muon: learning rate of the AdamW part relative to the stage's
    # of the first moments; "bfloat16" saves 2 bytes a weight where memory is short; "": the weights'
    mu_dtype: Literal["", "float32", "bfloat16"] = ""
    ema_decay: float = 0.0  # > 0 keeps an exponential average of the weights and releases it
    # regexes of names of weights that do not decay, such as "scale|bias|table"; none in the original [L]
    no_decay: tuple[str, ...] = ()


@dataclass(frozen=True)
class LossConfig:
    """The transformer's objective."""

    z_loss: float = 1e-5  # times mean logsumexp^2 over predicted positions [P]
    # share of samples reduced to their image alone, for guidance [P App. F]
    context_dropout: float = 0.1
    # entries of the vocabulary (of each part that a mesh splits it into) whose logits are held at once, recomputed
    # going back; 0: all (and accuracy)
    logits_chunk: int = 0


@dataclass(frozen=True)
class VQGANLossConfig:
    """The VQGAN's objective; no term needs a downloaded network."""

    l1: float = 1.0
    l2: float = 2.0
    edge: float = 1.0  # L1 between finite differences, for crisp outlines
    commitment: float = 0.25  # [M]
    adversarial: float = 0.0  # weight of the patch discriminator's hinge loss once it is on
    adversarial_start: int = 0  # step at which it is switched on
    codebook_decay: float = 0.99  # exponential moving average of the codebook
    # codes used less often than this share of uniform are re-seeded from the batch
    restart_below: float = 0.03


@dataclass(frozen=True)
class MeshConfig:
    """The device mesh and the row of `sharding.STRATEGIES` that maps letters to it."""

    strategy: str = "data"
    axes: tuple[tuple[str, int], ...] = (("data", -1),)  # -1: all remaining devices

    @classmethod
    def parse(cls, text: str) -> "MeshConfig":
        """ "data=2,tensor=4" as axes, and the strategy named after them; ValueError for anything else."""
        axes = []
        for part in text.split(","):
            name, _, size = part.strip().partition("=")
            if not name.isidentifier() or not size.isdecimal() or int(size) < 1:
                raise ValueError(
                    f"mesh {text!r}: want AXIS=DEVICES, such as tensor=8 or data=2,tensor=4"
                )
            axes.append((name, int(size)))
        return cls("_".join(name for name, _ in axes), tuple(axes))

    @property
    def num_devices(self) -> int:
        """The product of the axes' sizes; negative where one of them takes what remains."""
        return math.prod(size for _, size in self.axes)


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters beside frozen matrices (Hu et al., arXiv 2106.09685): W + alpha / rank * A B."""

    rank: int = 16  # A, columns of the first and rows of the second factor
    alpha: float = 32.0  # the product's scale is alpha / rank
    targets: tuple[str, ...] = LORA_TARGETS  # matrices of every layer
    dropout: float = 0.0  # of what the adapters read

    def __post_init__(self) -> None:
        require(self.rank >= 1, f"lora.rank {self.rank}: want at least 1")
        require(0.0 <= self.dropout < 1.0, f"lora.dropout {self.dropout} must lie in [0, 1)")
        unknown = sorted(set(self.targets) - set(LORA_TARGETS))
        require(
            bool(self.targets) and not unknown,
            f"lora.targets {unknown or '()'}: want some of {', '.join(LORA_TARGETS)}",
        )


@dataclass(frozen=True)
class TrainConfig:
    """The loop around the step."""

    stages: tuple[Stage, ...]
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    vqgan_loss: VQGANLossConfig = VQGANLossConfig()
    mesh: MeshConfig = MeshConfig()
    accumulation: int = 1  # micro-batches a step is computed in: less memory, the same update
    # regexes of names of weights, such as "layers/.*/(gate|up|down)": all others stay as they are; empty: train all
    trainable: tuple[str, ...] = ()
    lora: LoraConfig | None = None  # train adapters beside the weights of --init instead of them
    # a fresh run starts the rows of image codes alike where the codebook is: small models learn faster
    codebook_tables: bool = False
    # a run with --init starts the head's rows of the image codes at zero [L]
    zero_code_logits: bool = False
    seed: int = 0  # of the weights a run starts from, and of dropout
    log_every: int = 20  # steps
    save_every: int = 500  # steps
    keep_last: int = 2  # checkpoints
    keep_every: int = 0  # steps: checkpoints at its multiples are kept beside the last; 0: none
    eval_every: int = 1000  # steps between sample grids and losses on eval_source; 0: never
    eval_prompts: tuple[str, ...] = ()  # drawn as a grid at every evaluation
    eval_source: str = ""  # the one of data.sources, in no mixture, whose loss is logged; "": none
    eval_batches: int = 8  # of the last stage's size, at every evaluation
    max_nonfinite: int = 0  # steps without a finite loss that are skipped; one more stops the run
    hang_minutes: float = 30.0  # without a step after which the process ends with code 3; 0: never
    peak_tflops: float = 0.0  # of one device in bfloat16, for the log's mfu; 0: as in chips.py
    wandb: str = ""  # project on Weights & Biases that gets the log's numbers too; "": none

    def __post_init__(self) -> None:
        for name in ("log_every", "save_every", "keep_last", "eval_batches"):
            require(getattr(self, name) >= 1, f"{name} {getattr(self, name)}: want at least 1")
        for name in ("eval_every", "keep_every", "max_nonfinite", "hang_minutes", "peak_tflops"):
            require(getattr(self, name) >= 0, f"{name} {getattr(self, name)}: want 0 (off) or more")
        require(self.accumulation >= 1, f"accumulation {self.accumulation}: want at least 1")
        for stage in self.stages:
            require(
                stage.batch_size % self.accumulation == 0,
                f"batch_size {stage.batch_size} is no multiple of accumulation {self.accumulation}",
            )
        require(
            not (self.lora and self.trainable), "lora and trainable: adapters or weights, not both"
        )
        zeroed = bool(self.lora) and self.zero_code_logits
        require(not zeroed, "lora and zero_code_logits: adapters leave the head as --init's is")

    @property
    def mixed_sources(self) -> set[str]:
        """The names of the sources that some stage trains on."""
        return {name for stage in self.stages for name, _ in stage.mixture}


@dataclass(frozen=True)
class Experiment:
    """A run file's result: what is trained, on what, and how."""

    trainee: Literal["transformer", "vqgan"]
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    sample: SampleConfig = SampleConfig()
    assets: str = "scenes"  # VQGAN and tokenizer of a transformer run: "scenes" (shipped) or a checkpoint's path
    description: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        train = self.train
        partial = bool(train.lora or train.trainable or train.accumulation > 1)
        require(
            self.trainee == "transformer" or not partial,
            "accumulation, trainable and lora are for transformers: a VQGAN trains whole",
        )
        self._check_eval_source()
        if self.trainee == "transformer":
            self._check_logits()

    def _check_logits(self) -> None:
        train, vocab_size = self.train, self.model.transformer.vocab_size
        for stage in train.stages:
            rows = stage.batch_size // train.accumulation
            gib = 4 * rows * stage.max_tokens * vocab_size / 2**30
            require(
                gib < MAX_LOGITS_GIB or train.loss.logits_chunk > 0,
                f"logits of {rows} x {stage.max_tokens} tokens are {gib:.1f} GiB; "
                "set train.loss.logits_chunk, such as 4096",
            )

    def _check_eval_source(self) -> None:
        name = self.train.eval_source
        found = {source.name: source for source in self.data.sources}
        if not name:
            return
        require(name in found, f"train.eval_source {name!r}: want one of {sorted(found)}")
        for other in sorted(self.train.mixed_sources & {*found}):
            require(
                origin(found[other]) != origin(found[name]),
                f"train.eval_source {name!r}: a stage trains on its records (as {other!r}); "
                "want a source of records that no mixture holds",
            )
