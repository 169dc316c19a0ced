"""How fast do we draw codes, next to PyTorch? In how many forward passes, next to published Jacobi decoding?

    PYTHONPATH=. python benchmarks/decode.py [--sections speed passes] [--models shipped] [--repeats 5]

Prints tables for docs/benchmarks.md. Speed: prompt ids in, ids of a 128x128 px image out (64 codes), guided, float32,
PyTorch on as many threads as XLA; the median of interleaved repeats, compilation told apart. PyTorch (transformers'
Chameleon with the same weights) paints a batch one image after the other, as the original must, so its rate there is
that of one image. Passes: the shipped model on held-out prompts. Other work on the machine makes the numbers worthless.
"""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import jax
import numpy as np
from tqdm import tqdm

from benchmarks.peers import published_sjd
from benchmarks.peers.bandwidth import GIGABYTE, bytes_per_step, read_bandwidth
from benchmarks.peers.models import SIZE_PX, SUBJECTS, Subject
from lumina_jax.cli import parse_arguments, run_main
from lumina_jax.config import SampleConfig
from lumina_jax.evals.prompts import eval_prompts
from lumina_jax.lumina import Lumina
from lumina_jax.model.chameleon import forward
from lumina_jax.model.params import count_params
from lumina_jax.sampling.batch import DrawnRow, Request
from lumina_jax.sampling.generate import generate, prepare
from lumina_jax.sampling.sequential import inference_config
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.tasks import text_to_image

NUM_CODES = 64  # of an image
BRANCHES = (1, 1, 1, 2, 2, 3)
MAX_DIFFERENCE = 1e-4  # of logits, ours and PyTorch's
HAS_TORCH = find_spec("torch") is not None and find_spec("transformers") is not None

# Our decoders by name: what each changes in a subject's settings. One line adds a row to all tables.
DECODERS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "jacobi, W = 4": {"decoder": "jacobi", "window": 4},
    "jacobi, W = 16": {"decoder": "jacobi", "window": 16},
    "jacobi, W = 16, 6 branches": {"decoder": "jacobi", "window": 16, "branches": BRANCHES},
    "coupled, W = 16": {"decoder": "coupled", "window": 16},
    "coupled, W = 16, 6 branches": {"decoder": "coupled", "window": 16, "branches": BRANCHES},
}
# Published decoding by name: how many tokens before R its window closes.
PUBLISHED = {
    "published SJD, W = 16": published_sjd.END_MARGIN,
    "the same, its window reaching to the last code": -published_sjd.NUM_LEAD,
}

HALF = ("sequential, half the image", 0)  # what tells a step apart from the prompt
STEP = ("step", 0)  # what a code of the lower half costs, each round's two calls compared
Paint = Callable[[], object]


@dataclass(frozen=True)
class Options:
    """What to measure, and how often."""

    sections: tuple[Literal["speed", "passes"], ...] = ("speed", "passes")
    models: tuple[Literal["shipped", "released", "layers"], ...] = tuple(SUBJECTS)  # type: ignore[assignment]
    batch: int = 8  # images of the second row of every model
    repeats: int = 5  # of which the median counts
    num_prompts: int = 64
    guidances: tuple[float, ...] = (2.0, 3.0)  # of the passes


def main() -> None:
    """Print the machine and every table asked for."""
    options = parse_arguments(Options, prog="benchmarks/decode.py", description=__doc__)
    print(machine())
    if not HAS_TORCH:
        print("left out: PyTorch's columns (pip install -r requirements-torch.txt)")
    if "speed" in options.sections:
        print_speed(options)
    if "passes" in options.sections:
        print_passes(options)


def num_threads() -> int:
    """The cores that this process may use: XLA's threads, and PyTorch's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """Processor, threads, load and versions in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    libraries = ["jax", "numpy", *(["torch", "transformers"] if HAS_TORCH else [])]
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    cpu = names[0] if names else platform.processor() or platform.machine()
    device = jax.devices()[0].device_kind
    return f"{cpu} ({device}), {num_threads()} threads{load}; Python {platform.python_version()}, {versions}"


def print_speed(options: Options) -> None:
    """Rates of every model, then the share of the machine's bandwidth that a step of ours reaches."""
    bandwidth = read_bandwidth(GIGABYTE, num_threads())
    peers = "PyTorch as the original | times | PyTorch, both rows in one call | times"
    print(f"\n| model | decoder | images at once | codes/s | {peers} | compilation (s) |")
    print(f"|{'---|' * 9}")
    steps = []
    for name in options.models:
        subject = SUBJECTS[name](options.batch)
        seconds, compiling = measure(subject, options)
        for (decoder, count), median in list(seconds.items()):
            if count == 0:
                continue
            peers = [seconds.get((peer, 0)) for peer in ("as_original", "both_rows")]
            cells = " | ".join(versus(peer, median / count) for peer in peers)
            row = f"{subject.name} | {decoder} | {count} | {count * NUM_CODES / median:.0f}"
            print(f"| {row} | {cells} | {compiling[decoder, count]:.1f} |", flush=True)
        steps.append(bandwidth_row(subject, seconds[STEP], bandwidth))
    print(
        f"\nMemory is read at {bandwidth / 1e9:.1f} GB/s (an array of 1 GB, {num_threads()} threads).\n"
    )
    columns = "model | weights (M) | read a step (MB) | step (ms) | GB/s | of 1 GB's | of an array as large"
    print(f"| {columns} |\n|{'---|' * 7}")
    print("\n".join(steps), flush=True)


def measure(
    subject: Subject, options: Options
) -> tuple[dict[tuple[str, int], float], dict[tuple[str, int], float]]:
    """Median seconds of a call, and what the first took longer, by (decoder, images); PyTorch's by (column, 0)."""
    paints: dict[tuple[str, int], Paint] = {}
    if HAS_TORCH:
        painter = torch_painter(subject)
        paints["as_original", 0] = partial(painter.as_original, subject.requests[:1])
        paints["both_rows", 0] = partial(painter.both_rows, subject.requests[:1])
    for decoder, changes in DECODERS.items():
        if decoder != "sequential" and not subject.is_trained:
            continue  # how many drafts are kept says nothing under random weights
        settings = replace(subject.settings, **changes)
        for count in sorted({1, options.batch}):
            paints[decoder, count] = partial(
                generate, subject.model, subject.requests[:count], settings
            )
    half = [replace(subject.requests[0], height_px=SIZE_PX // 2)]
    paints[HALF] = partial(generate, subject.model, half, subject.settings)
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in paints}
    rounds = [(repeat, key) for repeat in range(options.repeats + 1) for key in paints]
    for _, key in tqdm(rounds, desc=subject.name, unit="call"):
        start = perf_counter()
        paints[key]()
        seconds[key].append(perf_counter() - start)
    medians = {key: float(np.median(each[1:])) for key, each in seconds.items()}
    compiling = {key: seconds[key][0] - medians[key] for key in seconds}
    lower = np.subtract(seconds["sequential", 1], seconds[HALF])[1:]
    return {**medians, STEP: 2 * float(np.median(lower)) / NUM_CODES}, compiling


def torch_painter(subject: Subject) -> Any:
    """PyTorch's side of a subject, its logits checked against ours."""
    import torch  # pyright: ignore[reportMissingImports]

    from benchmarks.peers.torch_chameleon import Painter

    torch.set_num_threads(num_threads())
    painter = Painter(subject.model, subject.settings)
    config = inference_config(subject.model.config.transformer)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (2, 32), np.int32)
    run = jax.jit(lambda params, ids: forward(params, config, ids)[0])
    logits = np.asarray(run(subject.model.params["transformer"], ids))
    difference = painter.largest_difference(logits, ids)
    if difference > MAX_DIFFERENCE:
        raise ValueError(
            f"{subject.name}: PyTorch's logits differ by {difference:g}, want {MAX_DIFFERENCE:g} at most: "
            "the two would not do the same work"
        )
    return painter


def versus(peer: float | None, seconds: float) -> str:
    """Two cells: PyTorch's codes a second, and how many times faster an image of ours in `seconds` is."""
    return "| " if peer is None else f"{NUM_CODES / peer:.1f} | {peer / seconds:.1f}"


def bandwidth_row(subject: Subject, seconds: float, bandwidth: float) -> str:
    """A row of a step of one image: what a code of its lower half costs, with the host's share of it."""
    model = subject.model
    (job,) = prepare(model, subject.requests[:1], subject.settings)
    contexts = sum(map(len, job.contexts)) / len(job.contexts)
    num_slots = contexts + len(job.plan.sentence) * 3 / 4
    num_bytes = bytes_per_step(model, num_slots, len(job.contexts))
    weights = count_params(model.params["transformer"]) / 1e6
    rate, same = num_bytes / seconds, read_bandwidth(num_bytes, num_threads())
    shares = f"{rate / bandwidth:.0%} | {rate / same:.0%} ({same / 1e9:.1f} GB/s)"
    row = f"{subject.name} | {weights:.1f} | {num_bytes / 1e6:.1f} | {1e3 * seconds:.2f}"
    return f"| {row} | {rate / 1e9:.1f} | {shares} |"


def print_passes(options: Options) -> None:
    """Forward passes an image, of published decoding and of each of ours, at every guidance."""
    lumina = Lumina.load("scenes")
    requests = held_out_requests(lumina, options.num_prompts)
    rows: dict[str, Callable[[SampleConfig], np.ndarray]] = {}
    for name, margin in PUBLISHED.items():
        rows[name] = partial(passes_as_published, lumina, requests, end_margin=margin)
    for name, changes in DECODERS.items():
        rows[name] = partial(passes_with, lumina, requests, changes)
    heads = " | ".join(f"guidance {scale:g}" for scale in options.guidances)
    print(f"\nForward passes an image of {NUM_CODES} codes, {len(requests)} held-out prompts.\n")
    print(f"| decoder | {heads} |\n|---|{'---|' * len(options.guidances)}")
    for name, count_passes in tqdm(rows.items(), desc="passes", unit="row"):
        passes = [count_passes(replace(lumina.settings, guidance=g)) for g in options.guidances]
        print(f"| {name} | {' | '.join(map(mean_and_error, passes))} |", flush=True)


def held_out_requests(lumina: Lumina, count: int) -> list[Request]:
    """One square image for each of `count` prompts, evenly of all categories, with seeds of their own."""
    prompts = eval_prompts(-(-count // 6))
    step = len(prompts) // 6
    texts = [prompts[index % 6 * step + index // 6].text for index in range(count)]
    sentences = [text_to_image(SIZE_PX, SIZE_PX, text) for text in texts]
    return [
        Request(prompt_ids(sentence, lumina.tokenizer), SIZE_PX, SIZE_PX, seed)
        for seed, sentence in enumerate(sentences)
    ]


def passes_as_published(
    lumina: Lumina, requests: list[Request], settings: SampleConfig, end_margin: int
) -> np.ndarray:
    """Int[B] forward passes by published speculative Jacobi decoding."""
    return published_sjd.draw_images(lumina.loaded, requests, settings, end_margin=end_margin)[1]


def passes_with(
    lumina: Lumina, requests: list[Request], changes: dict[str, Any], settings: SampleConfig
) -> np.ndarray:
    """Int[B] forward passes by one of our decoders."""
    return passes_of(lumina, requests, replace(settings, **changes))


def passes_of(lumina: Lumina, requests: Sequence[Request], settings: SampleConfig) -> np.ndarray:
    """Int[B] forward passes that our decoder of `settings` takes for each request."""
    passes = np.zeros(len(requests), int)

    def note(row: DrawnRow) -> None:
        if row.passes is not None:
            passes[list(row.requests)] = row.passes

    generate(lumina.loaded, requests, settings, progress=note)
    return passes


def mean_and_error(passes: np.ndarray) -> str:
    """The mean with its standard error."""
    error = passes.std(ddof=1) / np.sqrt(len(passes)) if len(passes) > 1 else float("nan")
    return f"{passes.mean():.2f} ± {error:.2f}"


if __name__ == "__main__":
    run_main(main)
