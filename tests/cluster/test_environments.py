"""Clusters that are pretended by their variables: which is found, and what jax is told."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lumina_jax.cluster import environments
from lumina_jax.cluster.environments import ENVIRONMENTS, find_cluster

BY_HAND = {
    "JAX_COORDINATOR_ADDRESS": "ten:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "a[1-4]",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}
GKE = {**POD, "TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "1"}
FOUND = {
    "by hand": (BY_HAND, "JAX_COORDINATOR_ADDRESS", 4),
    "by hand within SLURM": ({**SLURM, **BY_HAND}, "JAX_COORDINATOR_ADDRESS", 4),
    "Open MPI 4": ({**MPI, "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"}, "Open MPI 4", 8),
    "Open MPI 5": (MPI, "Open MPI", 8),
    "a SLURM step": (SLURM, "SLURM", 4),
    "a SLURM step with an address": ({**SLURM, "JAX_COORDINATOR_ADDRESS": "ten:1"}, "SLURM", 4),
    "a TPU slice on GKE": (GKE, "TPUs on GKE", 4),
    "two slices on GKE": ({**GKE, "MEGASCALE_NUM_SLICES": "2"}, "TPUs on GKE", 8),
    "two slices of a host": (
        {**GKE, "TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"},
        "TPUs on GKE",
        2,
    ),
    "Kubernetes": (POD, "Kubernetes", None),
}
ALONE = {
    "nothing": {},
    "the shell of a SLURM job": {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
    "one SLURM task": {**SLURM, "SLURM_STEP_NUM_TASKS": "1"},
    "one MPI process": {**MPI, "OMPI_COMM_WORLD_SIZE": "1"},
    "a slice of one host": {**GKE, "TPU_WORKER_HOSTNAMES": "localhost"},
    "a pod that is no indexed job": {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
    "no chips": {"TPU_ML_PLATFORM": "JAX", "TPU_SKIP_MDS_QUERY": "1"},
    "one, by hand": {**BY_HAND, "JAX_NUM_PROCESSES": "1"},
}
METADATA = {
    "worker-network-endpoints": "unknown:unknown:10.0.0.2,unknown:unknown:10.0.0.3",
    "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-8'\nMEGASCALE_NUM_SLICES: '3'\n",
}


class Machine(BaseHTTPRequestHandler):
    """The metadata server of a host of two in each of three slices; busy at the first question."""

    busy = True

    def do_GET(self) -> None:
        """An attribute, 404 for one that it does not have."""
        found = METADATA.get(self.path.split("/")[-1])
        assert self.headers["Metadata-Flavor"] == "Google"
        self.send_response(503 if Machine.busy else 404 if found is None else 200)
        Machine.busy = False
        self.end_headers()
        self.wfile.write((found or "").encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Machine) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every package is there."""
    monkeypatch.setattr(environments, "find_spec", lambda name: name)


def test_a_tpu_vm_asks_its_metadata_server(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments.time, "sleep", lambda _: None)
    variables = {"TPU_ML_PLATFORM": "JAX", "GCE_METADATA_IP": server}
    Machine.busy = True
    found = find_cluster("auto", variables)
    assert found is not None and found.name == "Cloud TPU VMs"
    assert found.processes(variables) == 6
    assert found.processes({**variables, "MEGASCALE_NUM_SLICES": "1"}) == 2
    with pytest.raises(OSError, match="127.0.0.1:1: the metadata server does not say"):
        find_cluster("auto", {**variables, "GCE_METADATA_IP": "127.0.0.1:1"})


def test_a_tpu_vm_of_its_own_stays_alone(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(METADATA, "tpu-env")
    monkeypatch.setitem(METADATA, "worker-network-endpoints", "a:b:10.0.0.2")
    assert find_cluster("auto", {"TPU_ML_PLATFORM": "JAX", "GCE_METADATA_IP": server}) is None


@pytest.mark.parametrize("case", FOUND)
def test_a_cluster_is_found_by_its_variables(case: str) -> None:
    variables, name, count = FOUND[case]
    found = find_cluster("auto", variables)
    assert found is not None and (found.name, found.processes(variables)) == (name, count)
    assert find_cluster("no", variables) is None


@pytest.mark.parametrize("case", ALONE)
def test_a_process_that_is_alone_stays_alone(case: str) -> None:
    assert find_cluster("auto", ALONE[case]) is None


def test_what_jax_is_told_beside_the_method() -> None:
    found = find_cluster("auto", BY_HAND)
    assert found is not None and found.arguments(BY_HAND) == {
        "coordinator_address": "ten:1234",
        "num_processes": 4,
        "process_id": 3,
    }
    found = find_cluster("auto", SLURM)
    assert found is not None and found.arguments(SLURM) == {"num_processes": 4}


def test_yes_joins_even_one_process_and_wants_a_cluster() -> None:
    found = find_cluster("yes", ALONE["one SLURM task"])
    assert found is not None and found.name == "SLURM"
    with pytest.raises(ValueError, match="--distributed yes: no cluster is told .* SLURM"):
        find_cluster("yes", {})


def test_mpi4py_where_asked() -> None:
    found = find_cluster("mpi4py", SLURM)
    assert found is not None and found.method == "mpi4py"


def test_an_address_alone_is_not_enough() -> None:
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES and JAX_PROCESS_ID"):
        find_cluster("auto", {"JAX_COORDINATOR_ADDRESS": "ten:1234"})


def test_a_number_that_is_none() -> None:
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES='four': want a whole number"):
        find_cluster("auto", {**BY_HAND, "JAX_NUM_PROCESSES": "four"})


@pytest.mark.parametrize(("variables", "package"), [(MPI, "mpi4py"), (POD, "kubernetes")])
def test_a_package_that_is_missing_is_named(variables, package, monkeypatch) -> None:
    monkeypatch.setattr(environments, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=f"pip install {package}"):
        find_cluster("auto", variables)


def test_jax_knows_every_method() -> None:
    from jax._src.clusters import ClusterEnv

    known = {kind.name for kind in ClusterEnv._cluster_types}
    assert {row.method for row in ENVIRONMENTS} <= known | {"deactivate", None}
