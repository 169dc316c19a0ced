"""Compiled programs are kept by commands, where the user's settings allow it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import jax, jax.numpy as jnp
from lumina_jax import compile_cache
compile_cache.MIN_COMPILE_SECONDS = 0.0
compile_cache.keep_compiled_programs()
hits = 0
def note(event, **kwargs):
    global hits
    hits += event == "/jax/compilation_cache/cache_hits"
jax.monitoring.register_event_listener(note)
jax.jit(lambda x: jnp.sin(x) + 1)(jnp.ones(3)).block_until_ready()
print(jax.config.jax_compilation_cache_dir, hits)
"""


def run(**environment: str) -> tuple[str, int]:
    """The folder that a process keeps its programs in, and how many of them it found there."""
    kept = {key: value for key, value in os.environ.items() if "COMPILATION_CACHE" not in key}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    folder, hits = process.stdout.split()
    return folder, int(hits)


def test_programs_are_kept_beside_other_copies(tmp_path: Path):
    cache = tmp_path / "cache"
    assert run(LUMINA_JAX_CACHE=str(cache)) == (str(cache / "compiled"), 0)
    assert any((cache / "compiled").iterdir())
    assert run(LUMINA_JAX_CACHE=str(cache))[1] > 0


def test_folder_that_jax_was_told_of_stays(tmp_path: Path):
    place = tmp_path / "mine"
    told = {"LUMINA_JAX_CACHE": str(tmp_path / "cache"), "JAX_COMPILATION_CACHE_DIR": str(place)}
    assert run(**told)[0] == str(place)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("place", ["/dev/null/cache", "/proc/nowhere"])
def test_nothing_is_kept_where_nothing_can_be_written(place: str):
    assert run(LUMINA_JAX_CACHE=place) == ("None", 0)


def test_nothing_is_made_where_caches_are_switched_off(tmp_path: Path):
    cache = tmp_path / "cache"
    assert run(LUMINA_JAX_CACHE=str(cache), JAX_ENABLE_COMPILATION_CACHE="false") == ("None", 0)
    assert not cache.exists()
