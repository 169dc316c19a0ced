"""The field's own benchmarks, from their public files to what their scorers read (docs/official_benchmarks.md).

python -m lumina_jax.official geneval|dpg|compbench PROMPTS --out DIR [--checkpoint MODEL]
python -m lumina_jax.official fid IMAGES REFERENCE --inception WEIGHTS | clip IMAGES --clip FOLDER
python -m lumina_jax.official pope|mme|mmbench DATA --out DIR [--checkpoint MODEL]
python -m lumina_jax.official vqgan IMAGES [--checkpoint MODEL] [--inception WEIGHTS]
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from lumina_jax.cli import parse_arguments, run_main
from lumina_jax.compile_cache import keep_compiled_programs
from lumina_jax.dims import pick

if TYPE_CHECKING:
    from lumina_jax.official.fid import Inception
    from lumina_jax.official.understanding import Benchmark

PROG = "python -m lumina_jax.official"


@dataclass(frozen=True)
class Paint:
    """Paint a benchmark's prompts, and lay the images out as its public scorer reads them."""

    prompts: Positional[Path]  # the benchmark's own file; of DPG-Bench the folder of its prompts
    out: Path  # a folder: the images, run.json, and scorer/ once all are there
    checkpoint: str = "scenes"  # a model checkpoint's folder, or the name of a shipped model
    size: str | None = None  # WIDTHxHEIGHT in px; default: the trained square
    images_per_prompt: int | None = (
        None  # default: the paper's (GenEval 4, DPG-Bench 4, T2I-CompBench 10)
    )
    seed: int = 0  # of the first image; every image has the next one
    guidance: float | None = None  # this and what follows: default: the model's own
    temperature: float | None = None
    top_k: int | None = None
    decoder: str | None = None  # a row of sampling.DECODERS
    precision: str | None = None  # a row of model.precision.PRECISIONS
    batch: int | None = None  # images at once on each device; default: as many as fit
    resume: bool = False  # go on with a folder that a run of the same settings left


@dataclass(frozen=True)
class Fid:
    """FID between a folder of images and another, or reference statistics."""

    images: Positional[Path]
    reference: Positional[Path]  # a folder of images, or an .npz file with mu and sigma
    inception: Path  # weights of torch-fidelity's InceptionV3
    crop_px: int | None = None  # first scale and cut every image to this square; default: as it is
    layer: str = "2048"  # of Inception; FID is defined by this one
    batch: int = 32
    device: str = "cpu"  # as PyTorch names it: cuda
    out: Path | None = None  # a JSON file with the score and what decides it


@dataclass(frozen=True)
class Clip:
    """CLIP score of a folder of images and their prompts."""

    images: Positional[Path]
    clip: Path  # a folder with a CLIP model as transformers keeps it
    batch: int = 32
    device: str = "cpu"
    out: Path | None = None


@dataclass(frozen=True)
class Understand:
    """Answer a benchmark's questions, score them by its official rules, write its official files."""

    data: Positional[Path]  # its public file; of MME the release's folder, or a TSV
    out: Path  # a folder: answers, run.json, scores.json, official/
    images: Path | None = None  # POPE: the folder of COCO's val2014 images
    circular: bool = False  # MMBench: ask every question once for each roll of its options
    table: str = "tsv"  # MMBench: tsv or xlsx
    checkpoint: str = "scenes"
    precision: str | None = None
    text_top_k: int = 1  # 1 is greedy, as these benchmarks are answered
    temperature: float = 1.0
    max_tokens: int = 64  # of an answer
    seed: int = 0
    batch: int = 8  # questions at once
    resume: bool = False


@dataclass(frozen=True)
class Vqgan:
    """PSNR, SSIM and the use of the codebook of a checkpoint's VQGAN on a folder of images."""

    images: Positional[Path]
    checkpoint: str = "scenes"
    target_px: int | None = None  # images are cut to the model's crops of about this, squared
    limit: int | None = None  # the first images alone
    batch: int = 8
    inception: Path | None = None  # weights of torch-fidelity's InceptionV3: rFID too
    layer: str = "2048"
    device: str = "cpu"  # of Inception
    out: Path | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line: a benchmark's name first."""
    commands: dict[str, tuple[type, Callable[[Any], None]]] = {
        **{name: (Paint, partial(paint, name)) for name in ("geneval", "dpg", "compbench")},
        **{name: (Understand, partial(understand, name)) for name in ("pope", "mme", "mmbench")},
        "fid": (Fid, score_fid),
        "clip": (Clip, score_clip),
        "vqgan": (Vqgan, score_vqgan),
    }
    arguments = sys.argv[1:] if arguments is None else arguments
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(__doc__)
        return
    kind, run = pick(commands, name, "benchmark")
    options = parse_arguments(kind, rest, prog=f"{PROG} {name}", description=kind.__doc__)
    if getattr(options, "batch", None) is not None and options.batch < 1:
        raise ValueError(f"--batch {options.batch}: want 1 or more")
    run(options)


def paint(benchmark: str, options: Paint) -> None:
    """Paint and lay out; ends with exit code 130 or 143 where a signal stopped it, with all before complete."""
    from lumina_jax.lumina import Lumina
    from lumina_jax.official.painting import IMAGES_PER_PROMPT, Job, paint_benchmark
    from lumina_jax.official.prompt_sets import READERS
    from lumina_jax.painting import override
    from lumina_jax.unirep.grid import parse_size

    READERS[benchmark](options.prompts)  # before a model is loaded
    size = None if options.size is None else parse_size(options.size)
    keep_compiled_programs()
    model = Lumina.load(options.checkpoint, precision=options.precision)
    given = {
        "guidance": options.guidance,
        "temperature": options.temperature,
        "image_top_k": options.top_k,
        "decoder": options.decoder,
    }
    count = options.images_per_prompt
    job = Job(
        benchmark,
        options.prompts,
        IMAGES_PER_PROMPT[benchmark] if count is None else count,
        size or model.trained_size,
        options.seed,
    )
    settings = override(model.settings, given)
    painted = paint_benchmark(
        model, job, options.out, settings=settings, resume=options.resume, batch=options.batch
    )
    print(f"{options.out}: {painted.num_finished} of {painted.num_asked} images")
    if painted.signal:
        print("stopped: the same command with --resume goes on", file=sys.stderr)
        sys.exit(128 + painted.signal)
    print(f"for the scorer: {options.out / 'scorer'}")


def understand(benchmark: str, options: Understand) -> None:
    """Ask, score, write."""
    from lumina_jax.lumina import Lumina
    from lumina_jax.official.understanding import run_benchmark

    opened = _opened(benchmark, options)
    keep_compiled_programs()
    model: Any = Lumina.load(options.checkpoint, precision=options.precision)
    how = {
        "seed": options.seed,
        "text_top_k": options.text_top_k,
        "temperature": options.temperature,
        "max_tokens": options.max_tokens,
    }

    def answering(questions: Any, images: Any) -> Any:
        return model.answer(list(questions), list(images), **how)

    made_by = {
        "benchmark": benchmark,
        "circular": options.circular,
        "checkpoint": model.checkpoint,
        "precision": model.precision,
        "settings": how,
    }
    found = run_benchmark(
        opened,
        options.data,
        answering,
        options.out,
        made_by=made_by,
        resume=options.resume,
        batch=options.batch,
    )
    _show(found)
    print(options.out)


def score_fid(options: Fid) -> None:
    """Print FID and write what decides it."""
    from lumina_jax.official.fid import fid

    network = _inception(options.inception, options)
    found = fid(
        options.images, options.reference, network, crop_px=options.crop_px, batch=options.batch
    )
    _write(options.out, found)


def score_clip(options: Clip) -> None:
    """Print the CLIP score and write what decides it."""
    from lumina_jax.official.clip_score import clip_score

    found = clip_score(options.images, options.clip, batch=options.batch, device=options.device)
    _write(options.out, found)


def score_vqgan(options: Vqgan) -> None:
    """Print the scores of a VQGAN and write what decides them."""
    from lumina_jax.official.vqgan import vqgan_scores

    network = None if options.inception is None else _inception(options.inception, options)
    keep_compiled_programs()
    found = vqgan_scores(
        options.checkpoint,
        options.images,
        target_px=options.target_px,
        limit=options.limit,
        batch=options.batch,
        inception=network,
    )
    _write(options.out, found)


def _opened(benchmark: str, options: Understand) -> "Benchmark":
    from lumina_jax.official import understanding

    if options.table not in ("tsv", "xlsx"):
        raise ValueError(f"--table {options.table}: want tsv or xlsx")
    if benchmark == "pope":
        if options.images is None:
            raise ValueError("--images: want the folder of COCO's val2014 images")
        return understanding.open_pope(options.data, options.images)
    if benchmark == "mme":
        return understanding.open_mme(options.data)
    return understanding.open_mmbench(options.data, options.circular, options.table)


def _inception(weights: Path, options: Fid | Vqgan) -> "Inception":
    from lumina_jax.official.fid import Inception

    return Inception(weights, options.layer, options.device)


def _write(out: Path | None, found: dict[str, Any]) -> None:
    """Print the numbers, write everything."""
    _show(found)
    if out is not None:
        from lumina_jax.checkpoint import write_json
        from lumina_jax.image_files import check_folder

        check_folder(out.parent)
        write_json(out, found)
        print(out)


def _show(found: dict[str, Any], indent: str = "") -> None:
    """Numbers and tables of numbers, a line each."""
    for name, value in found.items():
        if isinstance(value, dict) and any(
            isinstance(v, int | float | dict) for v in value.values()
        ):
            print(f"{indent}{name}:")
            _show(value, indent + "  ")
        elif isinstance(value, int | float):
            print(f"{indent}{name:24} {value:.6g}")


if __name__ == "__main__":
    run_main(main)
