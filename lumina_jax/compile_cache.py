"""Compiled programs kept between processes: a command that ran once starts in a fraction of the time.

Only commands keep them; a program that imports lumina_jax configures JAX itself.
"""

import os

from lumina_jax.paths import cache_folder

# What compiles faster than this is not worth a file; JAX's own limit of one second leaves out most of a small model.
MIN_COMPILE_SECONDS = 0.05


def keep_compiled_programs() -> None:
    """Use `cache_folder()`/compiled as JAX's persistent compilation cache, unless JAX was told of one already.

    Quietly does without where that folder can't be written. JAX_COMPILATION_CACHE_DIR names another, and
    JAX_ENABLE_COMPILATION_CACHE=false switches it off. JAX tells versions, flags and devices apart by itself, and
    compiles anew where a stored program is damaged.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    try:
        folder = cache_folder() / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a read-only disk; no home
        return
    if not os.access(folder, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
