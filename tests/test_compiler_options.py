"""The table of compiler options: what each machine gets, and that its compiler takes it."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from lumina_jax.chips import BY_NAME, chip_of_kind
from lumina_jax.compiler_options import OPTIONS, TPUS, compiler_options
from tests.ahead_of_time import found_by

GATHER_IN_FUSIONS = "xla_tpu_enable_async_collective_fusion_fuse_all_gather"

# A scan of layers whose weights are split over four chips and gathered for each product: how its program says that
# collectives run beside products, without and with the options.
SCRIPT = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from lumina_jax.compiler_options import compiler_options

devices = np.array(topologies.get_topology_desc(platform="tpu", topology_name=sys.argv[1]).devices)
mesh, width = Mesh(devices, ("fsdp",)), 1024
rows, layers, whole = (NamedSharding(mesh, P(*axes)) for axes in (("fsdp",), (None, "fsdp"), ()))

def layer(x, weights):
    for weight in weights:
        weight = jax.lax.with_sharding_constraint(weight.astype(x.dtype), whole)
        x = jax.lax.with_sharding_constraint(jnp.tanh(x @ weight), rows)
    return x, None

def step(weights, x):
    loss = lambda weights: jnp.sum(jax.lax.scan(jax.checkpoint(layer), x, weights)[0] ** 2)
    return jax.tree.map(lambda w, g: w - 0.1 * g, weights, jax.grad(loss)(weights))

weight = jax.ShapeDtypeStruct((4, width, width), jnp.float32, sharding=layers)
x = jax.ShapeDtypeStruct((1024 * devices.size, width), jnp.bfloat16, sharding=rows)
stage = jax.jit(step, donate_argnums=0, out_shardings=[layers] * 4).lower([weight] * 4, x)
options = compiler_options(devices)
off = {name: False for name in options if isinstance(options[name], bool)}
found = []
for chosen in ([off] if sys.argv[2:] else []) + [options]:
    compiled = stage.compile(compiler_options=chosen)
    try:
        found.append(compiled.as_text().count("async-collective-start"))
    except jax.errors.JaxRuntimeError:  # what SparseCores do is printed from jaxlib 0.11 on
        found.append(None)
print(json.dumps([devices[0].device_kind, *found]))
"""


def fake(platform: str, kind: str) -> np.ndarray:
    """A mesh's devices."""
    return np.array([[SimpleNamespace(platform=platform, device_kind=kind)] * 2])


def test_rows_are_of_their_platform_and_no_name_is_twice_on_a_chip():
    for row in OPTIONS:
        gpu = row.name.startswith("xla_gpu_")
        assert row.chips == ("gpu",) if gpu else {*row.chips} <= {*TPUS}
        assert row.reason.count("[") + row.reason.count("docs/benchmarks.md") == 1
    for chip in (*TPUS, "gpu"):
        names = [row.name for row in OPTIONS if chip in row.chips]
        assert len(names) == len({*names}) > 3


def test_cpus_get_none_and_unknown_tpus_what_all_share():
    assert compiler_options(jax.devices()) is None
    later = compiler_options(fake("tpu", "TPU7x")) or {}
    every = [compiler_options(fake("tpu", BY_NAME[name].kind)) or {} for name in TPUS]
    assert later == {name: every[0][name] for name in every[0] if all(name in o for o in every)}
    assert GATHER_IN_FUSIONS not in later
    assert GATHER_IN_FUSIONS in (compiler_options(fake("tpu", "TPU v5e")) or {})


def test_xla_knows_every_option_of_gpus():
    """The CPU's compiler reads them by name and kind; it would refuse a wrong one."""
    stage = jax.jit(lambda x: x + 1).lower(1.0)
    stage.compile(compiler_options=compiler_options(fake("gpu", "NVIDIA H100")))
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        stage.compile(compiler_options={"xla_gpu_enable_latency_hiding": True})


@pytest.mark.aot
@pytest.mark.parametrize(
    "topology, chip",
    [("v4:2x2x1", "v4"), ("v5e:2x2", "v5e"), ("v5:2x2x1", "v5p"), ("v6e:2x2", "v6e")],
)
def test_libtpu_takes_the_options_of_each_generation(topology: str, chip: str):
    """It refuses unknown ones, and those that a generation can't do. On v5e they make collectives asynchronous."""
    kind, *started = found_by(SCRIPT, topology, *(["both"] if chip == "v5e" else []))
    assert chip_of_kind(kind) == BY_NAME[chip]
    assert chip != "v5e" or started[0] == 0 < started[1]
