"""Compiled programs kept between processes: `sample.py` and `train.py` start faster the second time.

A program that imports lumina_jax configures JAX itself.
"""

import os
from typing import Any

from lumina_jax.paths import cache_folder

# What compiles faster than this is not worth a file; JAX's own limit of one second leaves out most of a small model.
MIN_COMPILE_SECONDS = 0.05


def keep_compiled_programs() -> None:
    """Use `cache_folder()`/compiled as JAX's persistent compilation cache, unless JAX was told of one already.

    For one process: those of a cluster would want one folder for all of them, which they have to name themselves, in
    JAX_COMPILATION_CACHE_DIR. Quietly does without where the folder can't be written, or caches are switched off. JAX
    tells versions and flags apart. The folder grows, and may be removed at any time.
    """
    import jax

    config: Any = jax.config
    if config.jax_compilation_cache_dir is not None or not config.jax_enable_compilation_cache:
        return
    try:
        folder = cache_folder() / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a read-only disk; no home
        return
    if not os.access(folder, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
