"""Lumina-mGPT in JAX: one transformer over text and image tokens, at any size and aspect ratio."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lumina_jax.lumina import Lumina

__version__ = "0.1.0"
__all__ = ["Lumina", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the face on first use, so that `import lumina_jax` alone stays light."""
    if name == "Lumina":
        from lumina_jax.lumina import Lumina

        return Lumina
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
