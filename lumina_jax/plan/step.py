"""What one optimiser step of a run computes, as `costs` and `messages` count it."""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from lumina_jax.config import TransformerConfig
from lumina_jax.experiment import Experiment, LoraConfig, OptimizerConfig, Stage
from lumina_jax.plan.split import SplitWeight, split_adapters, split_weights, trained_layers
from lumina_jax.sharding import Layout

FLOAT32 = 4  # bytes


class Step(NamedTuple):
    """One optimiser step."""

    config: TransformerConfig
    rows: int  # B, over all devices and micro-batches
    columns: int  # S
    records_per_row: float = 1.0  # which do not see each other; pairs are counted as of equal ones
    filled: float = 1.0  # share of positions that are not padding
    packed: bool = False  # rows hold records: attention is told which position is of which
    accumulation: int = 1  # micro-batches
    logits_chunk: int = 0  # as LossConfig's: > 0 recomputes logits going back
    moment_bytes: int = 8  # of the optimiser's moments of one weight
    average: bool = False  # of the weights is kept
    trainable: tuple[str, ...] = ()  # as TrainConfig's: regexes of what is trained; empty: all
    lora: LoraConfig | None = None  # trained alone

    @property
    def positions(self) -> int:
        """All, padding too."""
        return self.rows * self.columns

    @property
    def tokens(self) -> float:
        """Positions that are not padding."""
        return self.positions * self.filled

    @property
    def products(self) -> Literal["bfloat16", "int8", "fp8"]:
        """What products of layers are computed in."""
        return self.config.matmul_dtype or "bfloat16"

    def trained(self, layout: Layout) -> tuple[SplitWeight, ...]:
        """What has gradients and moments: adapters, or weights of which `count` are trained."""
        if self.lora is not None:
            return split_adapters(self.config, self.lora, layout)
        return tuple(
            weight._replace(count=count)
            for weight in split_weights(self.config, layout)
            if (count := self.count(weight.keys))
        )

    def count(self, keys: tuple[str, ...]) -> int:
        """How many of the weights of this name take a gradient, of layers up to all of them; adapters apart."""
        if self.lora is not None:
            return 0
        if not self.trainable:
            return self.config.num_layers if keys[0] == "layers" else 1
        return trained_layers(self.config, self.trainable).get(keys, 0)

    def goes_back(self, keys: tuple[str, ...] = ("layers",)) -> bool:
        """Whether what weights of "layers", or of "head", read takes a gradient: something is trained there or below.

        With adapters, which are in layers, it does.
        """
        if self.lora is not None or not self.trainable:
            return True
        below = {"embed", "layers"} | ({"final_norm"} if keys[0] == "head" else set())
        return any(name[0] in below for name in trained_layers(self.config, self.trainable))


def step_of(
    experiment: Experiment,
    stage: Stage,
    rows: int | None = None,
    *,
    records_per_row: float = 1.0,
    filled: float = 1.0,
) -> Step:
    """A step of a run's stage, of `rows` rows in place of its own; what packed rows hold is for the asker to say."""
    train, packed = experiment.train, stage.layout == "packed"
    return Step(
        experiment.model.transformer,
        stage.batch_size if rows is None else rows,
        stage.max_tokens,
        records_per_row=records_per_row if packed else 1.0,
        filled=filled,
        packed=any(stage.layout == "packed" for stage in train.stages),  # one program for all
        accumulation=train.accumulation,
        logits_chunk=train.loss.logits_chunk,
        moment_bytes=moment_bytes(train.optimizer),
        average=train.optimizer.ema_decay > 0,
        trainable=train.trainable,
        lora=train.lora,
    )


def moment_bytes(config: OptimizerConfig) -> int:
    """Of one weight: AdamW's two, Muon's one (its AdamW part, of what is no matrix, is left out)."""
    first = jnp.dtype(config.mu_dtype or "float32").itemsize
    return first + (FLOAT32 if config.name == "adamw" else 0)
