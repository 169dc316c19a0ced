"""A benchmark's output folder: begun once, gone on with by the same model and settings alone, with notes beside."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina_jax.checkpoint import write_json
from lumina_jax.evals.scores import commit
from lumina_jax.image_files import check_folder
from lumina_jax.official.extras import versions
from lumina_jax.paths import is_remote

NOTES = "run.json"
FREE = ("commit", "versions")  # code may be updated halfway; the notes tell the last


def begin_run(out: str | Path, notes: Mapping[str, Any], resume: bool) -> Path:
    """Claim `out` for what `notes` describe, and write them with commit and versions to `run.json`; returns the folder.

    Raises ValueError of one line for a folder that holds something without `resume`, or with it where the notes there
    describe another run; OSError where nothing can be written.
    """
    out = Path(out)
    if is_remote(out):
        raise ValueError(f"{out}: the public scorers read a disk; name a local folder")
    check_folder(out)
    if not resume and any(out.iterdir()):
        raise ValueError(
            f"{out}: is not empty; name a new folder, or go on with what is there by --resume"
        )
    file = out / NOTES
    now = json.loads(json.dumps(dict(notes)))
    if file.exists():
        before = json.loads(file.read_text())
        changed = [k for k in {*before, *now} - {*FREE} if before.get(k) != now.get(k)]
        if changed:
            raise ValueError(
                f"{out}: was begun with other {', '.join(sorted(changed))} ({NOTES}); name a new folder"
            )
    elif any(out.iterdir()):
        raise ValueError(f"{out}: is not empty and has no {NOTES}: no run to go on with")
    made_by = versions("jax", "flax", "numpy", "pillow")
    write_json(file, {**now, "commit": commit(), "versions": made_by})
    return out
