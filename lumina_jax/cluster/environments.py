"""Which cluster a process belongs to, told by its environment: one table. What jax does with it: docs/clusters.md."""

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from lumina_jax.cli import Distributed

BY_HAND = "set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or say --distributed no"
METADATA_TRIES = 5  # alone, each host of a slice would wait for the others without end
METADATA = "http://{}/computeMetadata/v1/instance/attributes/{}"

Variables = Mapping[str, str]


class Environment(NamedTuple):
    """A kind of cluster: how it is told, and how `jax.distributed.initialize` joins it."""

    name: str
    told_by: tuple[str, ...]  # variables that are all set there
    processes: Callable[[Variables], int | None]  # how many; None: only jax can ask
    method: str | None  # jax's cluster_detection_method
    arguments: Callable[[Variables], dict[str, Any]] = lambda _: {}  # what else jax is told
    wants: str | None = None  # a package that jax asks


def _explicit(variables: Variables) -> dict[str, Any]:
    numbers = {name: _number(f"JAX_{name.upper()}") for name in ("num_processes", "process_id")}
    found = {name: number(variables) for name, number in numbers.items()}
    return {"coordinator_address": variables["JAX_COORDINATOR_ADDRESS"], **found}


def _workers(variables: Variables) -> int:
    """Hosts of a slice times slices, of a pod on GKE."""
    hosts = variables.get("TPU_PROCESS_ADDRESSES") or variables["TPU_WORKER_HOSTNAMES"]
    return len(hosts.split(",")) * int(variables.get("MEGASCALE_NUM_SLICES") or 1)


def _vm_workers(variables: Variables) -> int:
    """The same of a Cloud TPU VM, by what its metadata server says."""
    if "TPU_SKIP_MDS_QUERY" in variables:  # no chips, or nobody to ask
        return 1
    lines = [line.partition(":") for line in _metadata("tpu-env", variables).splitlines()]
    about = {name.strip(): value.strip().strip("'") for name, _, value in lines}
    slices = variables.get("MEGASCALE_NUM_SLICES") or about.get("MEGASCALE_NUM_SLICES") or 1
    return len(_metadata("worker-network-endpoints", variables).split(",")) * int(slices)


def _number(name: str) -> Callable[[Variables], int]:
    def number(variables: Variables) -> int:
        if not variables[name].isdecimal():
            raise ValueError(f"{name}={variables[name]!r}: want a whole number")
        return int(variables[name])

    return number


_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
_SLURM = ("JOB_ID", "STEP_NODELIST", "STEP_NUM_TASKS", "NTASKS", "PROCID", "LOCALID")
# The first whose variables are all there is believed.
ENVIRONMENTS = (
    Environment(
        "JAX_COORDINATOR_ADDRESS",
        ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
        _number("JAX_NUM_PROCESSES"),
        "deactivate",
        _explicit,
    ),
    Environment("Open MPI 4", ("OMPI_MCA_orte_hnp_uri", *_MPI), _number(_MPI[0]), "ompi"),
    Environment("Open MPI", _MPI, _number(_MPI[0]), "mpi4py", wants="mpi4py"),
    Environment(
        "SLURM",
        tuple(f"SLURM_{name}" for name in _SLURM),
        _number("SLURM_STEP_NUM_TASKS"),
        "slurm",
        lambda variables: {"num_processes": _number("SLURM_STEP_NUM_TASKS")(variables)},
    ),
    Environment("TPUs on GKE", ("TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID"), _workers, "gketpu"),
    Environment("Cloud TPU VMs", ("TPU_ML_PLATFORM",), _vm_workers, "gcetpu"),  # set by jax: chips
    Environment(
        "Kubernetes",
        ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"),
        lambda _: None,
        None,  # which has no name in jax, and is the last that it looks for
        wants="kubernetes",
    ),
)
ASKED = Environment("mpi4py", (), lambda _: None, "mpi4py", wants="mpi4py")


def find_cluster(mode: Distributed, variables: Variables) -> Environment | None:
    """What to join, None for a process of its own; ValueError for a cluster that cannot be joined as things are."""
    if mode == "no":
        return None
    told = (row for row in ENVIRONMENTS if all(name in variables for name in row.told_by))
    found = ASKED if mode == "mpi4py" else next(told, None)
    if found is None:
        if mode == "yes" or "JAX_COORDINATOR_ADDRESS" in variables:
            kinds = ", ".join(row.name for row in ENVIRONMENTS[1:])
            raise ValueError(
                f"--distributed {mode}: no cluster is told by the environment ({kinds}); {BY_HAND}"
            )
        return None
    if mode == "auto" and found.processes(variables) == 1:
        return None
    if found.wants and find_spec(found.wants) is None:
        raise ValueError(
            f"{found.name}: its processes find each other by the package {found.wants}, which is not installed: "
            f"pip install {found.wants}, or {BY_HAND}"
        )
    return found


def _metadata(attribute: str, variables: Variables) -> str:
    """What the metadata server of a Google Cloud machine knows, "" of what it does not; OSError where it is silent."""
    host = variables.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        METADATA.format(host, attribute), headers={"Metadata-Flavor": "Google"}
    )
    for tries_left in reversed(range(METADATA_TRIES)):
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.read().decode()
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError) and error.code == 404:
                return ""
            if not tries_left:
                raise OSError(
                    f"{host}: the metadata server does not say how many hosts this TPU slice has ({error}); {BY_HAND}"
                ) from error
            time.sleep(1.0)
    raise AssertionError("the last try returns or raises")
