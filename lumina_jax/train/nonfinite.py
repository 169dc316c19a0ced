"""Steps whose loss or gradient is not finite: they change nothing, are written down, and end a run past a bound.

The step itself leaves the state as it was, whatever the bound: the same program for every setting, so a run that is
resumed with another bound has the same numbers.
"""

import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lumina_jax.checkpoint import write_json
from lumina_jax.paths import make_folder, write_bytes

MAX_NAMED = 8  # records named on the screen; the file names all


class NonFiniteLoss(ValueError):
    """The loss or its gradient became NaN or infinite; the last good checkpoint is kept."""


def keep_where_finite(before: Any, after: Any, metrics: Mapping[str, Any]) -> Any:
    """The state `after` a step; where its loss or gradient is not finite the one `before`, one step on; pure.

    The counts of learning rates go on as well: they follow the run's steps.
    """
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])

    def is_rate(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    def kept(old: Any, new: Any) -> Any:
        return new if is_rate(new) else jnp.where(finite, new, old)

    return jax.tree.map(kept, before, after, is_leaf=is_rate)._replace(step=after.step)


def is_finite(values: Mapping[str, float]) -> bool:
    """Whether a step's loss and gradient are finite numbers."""
    return bool(np.isfinite([values["loss"], values["grad_norm"]]).all())


class NonFiniteSteps:
    """The steps of a run that changed nothing, of which `max_steps` are allowed."""

    def __init__(
        self,
        workdir: Path,
        max_steps: int,
        count: int = 0,
        record_ids: Callable[[int], list[str]] | None = None,
        latest: Callable[[], int | None] = lambda: None,
    ):
        """`count`: those before a resumed run's checkpoint. `record_ids`: of the batch of step 0, 1, …; `latest`: the
        step of the newest checkpoint.
        """
        self.workdir, self.max_steps, self.count = workdir, max_steps, count
        self.record_ids, self.latest = record_ids, latest

    def add(self, step: int, values: Mapping[str, float], batch: Mapping[str, np.ndarray]) -> None:
        """Write `step` (1, 2, …) down to `workdir/nonfinite-STEP`; NonFiniteLoss if it is one too many.

        Every process writes the rows of the batch that it has.
        """
        self.count += 1
        folder = self.workdir / f"nonfinite-{step}"
        ids = self.record_ids(step - 1) if self.record_ids else []
        _write(folder, step, values, batch, ids)
        named = ", ".join(ids[:MAX_NAMED]) + (
            f" and {len(ids) - MAX_NAMED} more" if len(ids) > MAX_NAMED else ""
        )
        what = (
            f"step {step}: the loss is {values['loss']}, the norm of its gradient {values['grad_norm']}, on the "
            f"records {named or '(not named)'}; its batch is in {folder}"
        )
        if self.count > self.max_steps:
            skipped = f"{self.count - 1} such steps were skipped; " if self.count > 1 else ""
            raise NonFiniteLoss(
                f"{what}; {skipped}the checkpoint of step {self.latest() or 0} is intact: lower the learning "
                f"rate or clip_norm, take a bad record out, or skip such steps with --train.max-nonfinite {self.count}"
            )
        if jax.process_index() == 0:
            print(
                f"\nwarning: {what}; skipped, {self.count} of at most {self.max_steps}",
                file=sys.stderr,
            )


def _write(
    folder: Path,
    step: int,
    values: Mapping[str, float],
    batch: Mapping[str, np.ndarray],
    ids: list[str],
) -> None:
    """`batch-PROCESS.npz`, and what the step said as `step.json`."""
    make_folder(folder)
    content = io.BytesIO()
    np.savez_compressed(content, **cast(dict[str, Any], batch))
    write_bytes(folder / f"batch-{jax.process_index()}.npz", content.getvalue())
    if jax.process_index() == 0:
        numbers = {name: _json_number(value) for name, value in values.items()}
        write_json(folder / "step.json", {"step": step, "metrics": numbers, "records": ids})


def _json_number(value: float) -> float | str:
    """A number as strict JSON has it: what is not finite by its name."""
    return value if np.isfinite(value) else str(value)
