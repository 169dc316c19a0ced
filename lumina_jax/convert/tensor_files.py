"""The tensors of a file of weights, whichever format it is in, by name and unread."""

from os import PathLike

from lumina_jax.convert.byte_source import ByteSource, open_source
from lumina_jax.convert.pth import open_pth
from lumina_jax.convert.safetensors_file import (
    looks_like_safetensors,
    open_folder,
    open_safetensors,
)
from lumina_jax.convert.stored_tensor import StoredTensor

__all__ = ["ByteSource", "StoredTensor", "open_folder", "open_source", "open_tensors"]


def open_tensors(path: str | PathLike) -> dict[str, StoredTensor]:
    """The tensors of a .safetensors, .pth, .pt, .ckpt or .bin file, told apart by their content, not their name.

    Raises FileNotFoundError, or ValueError where the file is of neither format or not whole.
    """
    source = open_source(path)
    named = str(path).endswith(".safetensors")
    is_zip = source.read(0, min(2, source.size)).tobytes() == b"PK"
    if looks_like_safetensors(source) or (named and not is_zip):
        return open_safetensors(source)
    return open_pth(source)
