"""A mesh of at most eight devices for every strategy, of models whose sizes four divides."""

import jax

from lumina_jax.experiment import MeshConfig
from lumina_jax.sharding import Layout, make_layout

MESHES = {
    "data": "data=8",
    "fsdp": "fsdp=8",
    "tensor": "tensor=4",
    "sequence": "sequence=8",
    "data_tensor": "data=2,tensor=4",
    "data_fsdp": "data=2,fsdp=4",
    "fsdp_tensor": "fsdp=2,tensor=4",
    "fsdp_sequence": "fsdp=4,sequence=2",
    "data_fsdp_tensor": "data=2,fsdp=2,tensor=2",
    "data_fsdp_sequence": "data=2,fsdp=2,sequence=2",
}


def layout_of(strategy: str) -> Layout:
    """The strategy on its mesh above."""
    mesh = MeshConfig.parse(MESHES[strategy])
    return make_layout(mesh, jax.devices()[: mesh.num_devices])
