"""One trained run in numbers: outcomes by name, "family/outcome", and curves over its training."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from typing import Any

import numpy as np

from lumina_jax.checkpoint import write_json
from lumina_jax.data.images import source_sizes
from lumina_jax.data_config import ScenesSource
from lumina_jax.evals.ablate.arms import Run, compute, flops_at, num_weights, tokens_at
from lumina_jax.evals.ablate.children import in_child
from lumina_jax.evals.ablate.unforced import fates
from lumina_jax.evals.prompts import Prompt, eval_prompts
from lumina_jax.evals.scores import Outcome, summary
from lumina_jax.evals.scores import run as painted
from lumina_jax.experiment import Experiment
from lumina_jax.lumina import Lumina
from lumina_jax.train.metrics import read_metrics
from lumina_jax.unirep.grid import crop_sizes

FILE = "ablation.json"  # in a run's workdir
RARE_SHARE = 0.1  # a source with less of the last stage's records is rarely seen
GROUPS = ("often", "rarely", "never")
NUM_SENTENCES = 16  # whose logits are looked at
LAST = 0.1  # of the training: "late"
HELD_OUT = "eval/ce_image"  # nats a code: the same codes in every layout

Size = tuple[int, int]  # (width, height) px


@dataclass(frozen=True)
class ScoreOptions:
    """How trained runs are scored; the same for every arm."""

    prompts_per_category: int = 50  # of six categories, for each group of sizes
    guidance: float = 1.5  # of all scores but those that name another
    guidances: tuple[float, ...] = (
        1.0,
        3.0,
    )  # other scales at which the sizes seen often are painted

    def __post_init__(self) -> None:
        if self.prompts_per_category < 1:
            raise ValueError("nothing to score: want at least 1 prompt a category")


def sizes_by_group(experiment: Experiment) -> dict[str, list[Size]]:
    """The sizes of the last stage that are seen often and rarely; and "never": other crops of the trained area.

    Those of "never" are no longer than the longest of the others. A group without sizes is left out.
    """
    grid, train = experiment.model.grid, experiment.train
    by_name = {source.name: source for source in experiment.data.sources}
    found: dict[str, list[Size]] = {group: [] for group in GROUPS}
    trained: set[Size] = set()
    for name in sorted(train.mixed_sources):
        source = by_name[name]
        if not isinstance(source, ScenesSource):
            raise ValueError(f"source {name}: an ablation's are scenes, whose sizes are known")
        trained |= {*source_sizes(source, grid)}
    shares = dict(train.stages[-1].mixture)
    total, largest = sum(shares.values()), experiment.model.target_px
    for name, weight in shares.items():
        source = by_name[name]
        if isinstance(source, ScenesSource) and source.target_px == largest:
            group = "rarely" if weight / total < RARE_SHARE else "often"
            found[group] += source_sizes(source, grid)
    longest = max(map(_ratio, (*found["often"], *found["rarely"])))
    others = [size for size in crop_sizes(largest, grid) if size not in trained]
    found["never"] = [size for size in others if _ratio(size) <= longest]
    return {group: sizes for group, sizes in found.items() if sizes}


def _ratio(size: Size) -> float:
    return max(size) / min(size)


def at_sizes(prompts: Sequence[Prompt], sizes: Sequence[Size]) -> list[Prompt]:
    """Prompts at the sizes in turn."""
    return [
        replace(prompt, width_px=size[0], height_px=size[1])
        for index, prompt in enumerate(prompts)
        for size in [sizes[index % len(sizes)]]
    ]


def score_run(run: Run, options: ScoreOptions) -> dict[str, Any]:
    """The run's numbers, read where they were written before for the same options; else made in a process of its own.

    Raises ChildProcessError of one line where that fails.
    """
    file = run.workdir / FILE
    wanted = json.loads(json.dumps(asdict(options)))
    if file.exists():
        found = json.loads(file.read_text())
        if found["options"] == wanted:
            return found
    code = in_child(_score, (run, options))
    if code != 0:
        raise ChildProcessError(
            f"arm {run.arm}, seed {run.seed}: its scoring ended with code {code}; what it printed says why"
        )
    return json.loads(file.read_text())


def _score(run: Run, options: ScoreOptions) -> None:
    model = Lumina.load(run.workdir / "model")
    lines = read_metrics(run.workdir)
    curves = curves_of(lines, run.experiment)
    outcomes = {
        **painted_outcomes(model, run.experiment, options),
        **trained_outcomes(curves),
    }
    content = {
        "options": asdict(options),
        "checkpoint": model.checkpoint,
        "weights": num_weights(run.experiment),
        "tokens": tokens_at(run.experiment, 10**12),
        "flops": compute(run.experiment),
        "outcomes": outcomes,
        "curves": curves,
    }
    write_json(run.workdir / FILE, json.loads(json.dumps(content)))


def painted_outcomes(
    model: Lumina, experiment: Experiment, options: ScoreOptions
) -> dict[str, float]:
    """Scores of painted images by category, group of sizes, size and guidance; what images are without a grammar."""
    prompts = eval_prompts(options.prompts_per_category)
    groups = {
        group: at_sizes(prompts, sizes) for group, sizes in sizes_by_group(experiment).items()
    }
    found, by_size = {}, {}
    for group, asked in groups.items():
        outcomes = painted(model, asked, guidance=options.guidance, progress=False)
        scores = summary(outcomes)
        if group == "often":
            found["score/overall"] = scores["overall"]["score"]
            found |= {f"category/{n}": row["score"] for n, row in scores["categories"].items()}
        found[f"sizes/{group}"] = scores["overall"]["score"]
        by_size |= _by_size(outcomes)
    found |= by_size
    for guidance in sorted({options.guidance, *options.guidances}):
        score = found["score/overall"]
        if guidance != options.guidance:
            outcomes = painted(model, groups["often"], guidance=guidance, progress=False)
            score = summary(outcomes)["overall"]["score"]
        found[f"guidance/{guidance:g}"] = score
    for group, asked in groups.items():
        rates = fates(model, asked)
        found[f"no grammar/undecodable, {group}"] = 1 - rates["decodable"]
        for name in ("wrong size", "unparsable", "no image"):
            found[f"no grammar/{name}, {group}"] = rates[name]
    found["logits/largest"] = largest_logit(model, groups["often"][:NUM_SENTENCES])
    return found


def _by_size(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """{"size/128x96": the share of images that are right}."""
    right: dict[str, list[bool]] = {}
    for one in outcomes:
        name = f"size/{one.prompt.width_px}x{one.prompt.height_px}"
        right.setdefault(name, []).append(one.right)
    return {name: float(np.mean(values)) for name, values in right.items()}


def largest_logit(model: Lumina, prompts: Sequence[Prompt]) -> float:
    """The largest |logit| after any token of prompts and of the images that the model paints for them."""
    texts = [prompt.text for prompt in prompts]
    sizes = [(prompt.width_px, prompt.height_px) for prompt in prompts]
    images = model.generate(texts, size=sizes, seed=range(len(texts)), guidance=1.0)
    said = [model.request(*each).prompt_ids for each in zip(texts, sizes, strict=True)]
    rows = [np.concatenate([ids, one.ids]) for ids, one in zip(said, images, strict=True)]
    padded = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    pairs = zip(model.logits(padded), rows, strict=True)  # what is padded comes after all
    return max(float(np.abs(logits[: len(ids)]).max()) for logits, ids in pairs)


def curves_of(lines: Sequence[Mapping[str, float]], experiment: Experiment) -> dict[str, Any]:
    """{"loss": {"flops", "values"}, "logits": …}: held-out nats a code, and the root of the mean squared normaliser."""
    named = {"loss": (HELD_OUT, float), "logits": ("z", sqrt)}
    curves = {}
    for curve, (name, value) in named.items():
        rows = [row for row in lines if name in row]
        curves[curve] = {
            "flops": [flops_at(experiment, int(row["step"])) for row in rows],
            "values": [value(row[name]) for row in rows],
        }
    return curves


def trained_outcomes(curves: Mapping[str, Any]) -> dict[str, float]:
    """What the curves come to: the held-out loss at the end, the logits' normaliser late and at its largest."""
    loss, logits = curves["loss"]["values"], curves["logits"]["values"]
    found = {"loss/held-out": loss[-1]} if loss else {}
    if logits:
        late = logits[-max(1, round(LAST * len(logits))) :]
        found["logits/normaliser, late"] = float(np.mean(late))
        found["logits/normaliser, most"] = max(logits)
    return found
