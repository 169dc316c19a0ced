"""Presets on machines to compile for: what `lumina_jax/plan/topology.py` makes devices of."""

from typing import Any, NamedTuple

from lumina_jax.chips import Chip
from lumina_jax.plan.topology import Topology


class Target(NamedTuple):
    """A preset on one machine, all chips or the first few of it."""

    preset: str
    topology: str
    num_chips: int

    @property
    def chip(self) -> Chip:
        """What the machine is made of."""
        return Topology.parse(self.topology).chip


TARGETS = {
    "7b v6e-1": Target("7b", "v6e:1x1", 1),
    "7b v5p-1": Target("7b", "v5p:2x2x1", 1),
    "7b v5e-4": Target("7b", "v5e:2x2", 4),
    "34b v5e-8": Target("34b", "v5e:2x4", 8),
    "34b v6e-8": Target("34b", "v6e:2x4", 8),
    "7b H100": Target("7b", "h100:1", 1),
    "34b H100-8": Target("34b", "h100:8", 8),
}


def devices(target: Target) -> list[Any]:
    """The target's devices. Raises ValueError where its compiler is not installed."""
    return Topology.parse(target.topology).devices()[: target.num_chips]
