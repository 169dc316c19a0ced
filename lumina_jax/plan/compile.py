"""A run's real step, or its decoder's, compiled for devices that are not there, and what the compiler says of it."""

import math
import re
from collections.abc import Mapping
from time import perf_counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lumina_jax.experiment import Experiment
from lumina_jax.sharding import Layout
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.program import TrainProgram, abstract_batch, transformer_program

# What the fields of a training state are called in a plan.
STATE_PARTS = {
    "params": "weights",
    "frozen": "frozen weights",
    "opt_state": "optimizer",
    "ema": "average of the weights",
}
FITS = re.compile(r"Used ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) hbm", re.IGNORECASE)
GIB = 2**30
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class OutOfMemory(Exception):
    """A program that the compiler itself refuses; `used_bytes` of one device, None where it does not say."""

    def __init__(self, message: str, used_bytes: int | None):
        super().__init__(message)
        self.used_bytes = used_bytes


class Compiled(NamedTuple):
    """What a compiled program needs of one device, in bytes, and its text."""

    seconds: float  # to compile
    arguments: int  # all inputs, as the compiler lays them out
    results: int
    aliased: int  # of results that are written over inputs
    temporary: (
        int  # what lives between inputs and results: activations, gradients, what is gathered
    )
    code: int
    text: str | None  # HLO; None where this jaxlib cannot print it

    @property
    def peak(self) -> int:
        """Inputs, new results, temporary memory and code together: an upper bound of what is held at once."""
        return self.arguments + self.results - self.aliased + self.temporary + self.code


class Argued(NamedTuple):
    """What goes into a step, exactly, by part of the training state: bytes of one device."""

    parts: Mapping[str, int]
    gradients: int  # as large as what is trained; they are among the temporary memory


def stage_program(experiment: Experiment, layout: Layout) -> TrainProgram:
    """The loop's own program. Which ids are image codes is no part of any shape: they are taken from 0."""
    codes = 0, experiment.model.vqgan.num_codes
    return transformer_program(experiment, Curriculum(experiment.train.stages), layout, codes)


def compile_stage(
    program: TrainProgram, experiment: Experiment, index: int, layout: Layout
) -> Compiled:
    """The step of stage `index`, with the stage's largest batch. Raises OutOfMemory."""
    batch = abstract_batch(experiment.train.stages[index], layout)
    return compile_lowered(program.step.lower(program.state, batch))


def compile_lowered(lowered: Any) -> Compiled:
    """Compile, and ask the compiler. Raises OutOfMemory where the program is larger than the device."""
    start = perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemory(*_told(str(error))) from error
    seconds = perf_counter() - start
    memory = compiled.memory_analysis()
    try:
        text = compiled.as_text()
    except Exception:  # of a libtpu newer than jaxlib: "unknown enum value"
        text = None
    return Compiled(
        seconds,
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        text=text,
    )


def argued(program: TrainProgram, batch: Mapping[str, Any]) -> Argued:
    """The parts of a step's arguments, from their shapes and shardings alone."""
    parts = {
        name: local_bytes(getattr(program.state, field)) for field, name in STATE_PARTS.items()
    }
    parts["batch"] = local_bytes(batch)
    return Argued({name: size for name, size in parts.items() if size}, parts["weights"])


def local_bytes(tree: Any) -> int:
    """What one device holds of a tree of abstract arrays with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _told(message: str) -> tuple[str, int | None]:
    """The sentence of a compiler's refusal that says how much is wanted, and the bytes in it."""
    found = FITS.search(message)
    if found is None:
        return " ".join(message.split())[:200], None
    return f"used {found.group(1)} of {found.group(2)}", _bytes(found.group(1))


def _bytes(text: str) -> int:
    """ "16.5G" as bytes."""
    unit = text[-1].upper() if text[-1].isalpha() else ""
    return int(float(text.rstrip("KMGTkmgt")) * UNITS[unit])
