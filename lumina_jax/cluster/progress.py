"""How far a run's checkpoints are, for supervisors: `python -m lumina_jax.cluster.progress WORKDIR` prints the step."""

import sys
from pathlib import Path

from lumina_jax.paths import as_path, is_remote, names_in
from lumina_jax.train.checkpoints import COMMITTED, FOLDER


def newest_checkpoint(workdir: str | Path) -> int | None:
    """The step of the newest whole checkpoint, None before the first; OSError where a bucket does not answer."""
    folder = as_path(workdir) / FOLDER
    steps = sorted((int(name) for name in names_in(folder) if name.isdecimal()), reverse=True)
    whole = (
        step for step in steps if not is_remote(folder) or (folder / f"{step}/{COMMITTED}").exists()
    )
    return next(whole, None)


if __name__ == "__main__":
    found = newest_checkpoint(sys.argv[1])
    print("" if found is None else found)
