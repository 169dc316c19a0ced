"""How long a step could take on machines that are not here: a projection from counted work and stated assumptions.

Nothing here is measured. Time = the slowest of arithmetic, main memory and fast links, of which each hides the others,
and what nothing hides: messages between slices as far as they do not overlap, and the optimiser.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from lumina_jax.chips import Chip
from lumina_jax.plan.costs import hardware_flops, mask_bytes, model_flops, traffic
from lumina_jax.plan.messages import messages
from lumina_jax.plan.step import Step
from lumina_jax.plan.topology import Topology
from lumina_jax.sharding import Layout, letter_ways

HOUR, DAY = 3600.0, 86400.0


@dataclass(frozen=True)
class Assumptions:
    """What a projection supposes; every field is one number with where it comes from."""

    # share of a chip's peak that products and fused attention reach, all that a step computes counted. Published
    # shares leave out what is recomputed, a third more with "full". v5p: 71 % nearly without; v5e: 61 to 67 % with it,
    # so 81 to 89 (MaxText). A cautious number between them
    tpu_share: float = 0.75
    v6e_share: float = 0.6  # 44 to 50 % with some of it recomputed or kept on hosts (MaxText)
    a100_share: float = (
        0.7  # 64 % without, 55 % with recomputation, so 73 (llm-foundry, 7B and 30B)
    )
    # H100 and H200: 46 % without, 40 to 44 % with it, so 54 to 58 (llm-foundry); large products alone reach 80
    hopper_share: float = 0.52
    # of main memory's peak: copies on an H200 were measured at 90 %, decoders in JAX reach 85 % on v5e
    bandwidth_share: float = 0.85
    # of the fast links' peak: 45 of 50 GB/s a link and direction (the scaling book's figure for v5e)
    link_share: float = 0.9
    # of the network's peak; no source, a cautious guess
    network_share: float = 0.7
    # of messages between slices or nodes: share that lies behind arithmetic. No source, a cautious guess
    network_overlap: float = 0.5
    # of the wall clock spent in steps; the rest compiles, saves, evaluates and restarts. No source, a cautious guess
    running_share: float = 0.95
    # of messages over fast links: share that can lie behind arithmetic (asynchronous collectives of XLA)
    link_overlap: float = 1.0

    def flops_share(self, chip: Chip) -> float:
        """The share of peak that goes with a chip."""
        if chip.name == "v6e":
            return self.v6e_share
        if not chip.is_gpu:
            return self.tpu_share
        return self.a100_share if chip.name.startswith("a100") else self.hopper_share


class Projection(NamedTuple):
    """A projected step, in seconds of one device unless said otherwise."""

    arithmetic: float
    memory: float  # without the optimiser
    links: float
    network: float  # whole, of which a part is hidden
    optimizer: float
    seconds: float  # a step
    tokens_per_second: float  # of all devices, without padding
    mfu: float  # model FLOPs over peak: 0.5 is half

    @property
    def bound(self) -> str:
        """What the step waits for longest: "arithmetic", "memory" or "links", or "network" where that is longer yet."""
        parts = {name: getattr(self, name) for name in ("arithmetic", "memory", "links", "network")}
        return max(parts, key=lambda name: parts[name])


class Run(NamedTuple):
    """A whole projected run."""

    days: float
    chip_hours: float
    cost: float | None  # chip_hours at a given price; None without one


def project(
    step: Step,
    layout: Layout,
    topology: Topology,
    assumed: Assumptions = Assumptions(),
) -> Projection:
    """The projection of one step of `layout`, whose devices are those of `topology`.

    Raises ValueError for a chip without rates, or without its network's where slices send each other anything.
    """
    chip = topology.chip
    if not chip.has_rates:
        raise ValueError(f"no projection for {chip.name!r}: chips.py has no rates of it")
    found, num_devices = messages(step, layout, topology.num_domains), layout.mesh.size
    slow = sum(m.slow_bytes for m in found)
    if slow and not chip.network:
        raise ValueError(f"no projection for several slices of {chip.name}: no rate of its network")
    moved = traffic(step, layout)
    arithmetic = _arithmetic(step, layout, chip) / num_devices
    arithmetic /= assumed.flops_share(chip)
    bandwidth = chip.bandwidth * assumed.bandwidth_share
    masks = mask_bytes(step, layout) if chip.is_gpu else 0.0
    memory = (moved.total - moved.optimizer + masks) / bandwidth
    optimizer = moved.optimizer / bandwidth
    rate = chip.link * assumed.link_share
    links = sum(
        m.fast_bytes / (rate * num_links(topology, m.ways // m.domains))
        for m in found
        if m.fast_bytes
    )
    network = slow / (chip.network * assumed.network_share) if slow else 0.0
    hidden = max(arithmetic, memory, links * assumed.link_overlap)
    behind = min(network * assumed.network_overlap, max(hidden - links, 0.0))
    seconds = hidden + links * (1 - assumed.link_overlap) + network - behind + optimizer
    mfu = model_flops(step) / (seconds * chip.flops * num_devices)
    return Projection(
        arithmetic, memory, links, network, optimizer, seconds, step.tokens / seconds, mfu
    )


def _arithmetic(step: Step, layout: Layout, chip: Chip) -> float:
    """Seconds that one device would take for all, at its peaks.

    int8 is of products forward alone, the others being in bfloat16; fp8 is of those going back too. Where S is split n
    ways, the device of the last part sees 2 - 1 / n times as many keys as the mean; cuDNN's kernel, which is then told
    by a mask what lies in the future, computes all of it.
    """
    flops, ways = hardware_flops(step), letter_ways("S", layout)
    rates = {"bfloat16": chip.flops, "int8": chip.int8, "fp8": chip.fp8}
    rate = rates[step.products]
    if not rate:
        raise ValueError(f"no projection: a {chip.name} has no products in {step.products}")
    backward = flops.gradients / (rate if step.products == "fp8" else chip.flops)
    whole = 2 * step.columns / (step.columns + 1)
    uneven = 1.0 if ways == 1 else whole if chip.is_gpu else 2 - 1 / ways
    others = flops.attention * uneven + flops.logits
    return flops.products / rate + backward + others / chip.flops


def num_links(topology: Topology, ways: int) -> int:
    """Over how many of its links a device receives from a group of `ways` on its slice or node.

    A group fills the axes of a slice one after the other: two links of an axis whose ends are joined, one of a part of
    an axis and of one with loose ends, where the device at an end has no other. GPUs have one, to a switch.
    """
    if topology.chip.is_gpu:
        return 1
    found = 0
    for size in sorted(topology.shape, reverse=True):
        if ways > 1:
            whole = ways >= size
            found += 2 if whole and size % topology.chip.ring == 0 else 1
            ways = -(-ways // size)
    return max(found, 1)


def project_run(
    stages: Sequence[tuple[int, Projection]],
    num_devices: int,
    assumed: Assumptions = Assumptions(),
    price_per_chip_hour: float | None = None,
) -> Run:
    """A run of stages, each so many steps that take as projected; the price is the asker's."""
    seconds = sum(steps * each.seconds for steps, each in stages) / assumed.running_share
    chip_hours = seconds / HOUR * num_devices
    cost = None if price_per_chip_hour is None else chip_hours * price_per_chip_hour
    return Run(seconds / DAY, chip_hours, cost)


def lines(projection: Projection, chip: Chip, assumed: Assumptions = Assumptions()) -> list[str]:
    """What to print, each line marked as a projection."""
    p = projection
    return [
        f"projection: {p.seconds:.3f} s a step, {p.tokens_per_second:,.0f} tokens/s, "
        f"{p.mfu:.1%} of peak (model FLOPs), bound by {p.bound}",
        f"projection: arithmetic {p.arithmetic:.3f} s at {assumed.flops_share(chip):.0%} of "
        f"{chip.flops / 1e12:g} TFLOP/s, memory {p.memory:.3f} s, "
        f"links {p.links:.3f} s, network {p.network:.3f} s, optimizer {p.optimizer:.3f} s",
    ]


def run_lines(run: Run) -> list[str]:
    """What to print of a whole run."""
    cost = "" if run.cost is None else f", {run.cost:,.0f} at the price given"
    return [f"projection: {run.days:.1f} days, {run.chip_hours:,.0f} chip-hours{cost}"]


def assumption_lines(assumed: Assumptions = Assumptions()) -> list[str]:
    """Every assumption by name."""
    return [f"assumed: {field.name} {getattr(assumed, field.name):g}" for field in fields(assumed)]
