"""Command lines: run files with overrides, and errors in one clear line with exit code 2."""

import importlib.util
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from lumina_jax.experiment import Experiment
from lumina_jax.paths import is_bucket_error, one_line, parse_path

USAGE = "usage: python train.py RUN_FILE [--workdir DIR] [--init CHECKPOINT] [--field value …]"


Distributed = Literal["auto", "yes", "no", "mpi4py"]


@dataclass(frozen=True)
class RunOptions:
    """Where a run lives; the rest of the command line overrides fields of the run file's Experiment."""

    # checkpoints, metrics and the released model; the same command resumes; default: runs/RUN_FILE's name
    workdir: Path
    init: Path | None = None  # a model checkpoint whose weights start a fresh run
    data_dir: Path | None = None  # drawn and tokenised data, shared by runs; default: workdir/data
    # on a machine without accelerator: split the processor, one device a core trains fastest
    cpu_devices: int = 1
    # join the other processes of a cluster: where the environment tells of several, always, never, or as MPI says
    distributed: Distributed = "auto"
    heartbeat_seconds: int = (
        100  # a process of a cluster that is silent for so long is dead, which ends all
    )
    join_seconds: int = 300  # how long the processes of a cluster wait for each other at the start


def run_main(function: Callable[[], Any]) -> None:
    """Call `function`; a wrong input ends the program with `error: …` and exit code 2, Ctrl-C with 130."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning
            function()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)


def explain(error: BaseException) -> str | None:
    """One line about a wrong input, or a disk or bucket that does not do what is asked; None for any other error."""
    if isinstance(error, ValueError | OSError):
        return " ".join(str(error).splitlines())
    return one_line(error) if is_bucket_error(error) else None


def _print_warning(message: Warning | str, *place: Any, **options: Any) -> None:
    print(f"warning: {' '.join(str(message).splitlines())}", file=sys.stderr)


def load_run_file(path: str | Path) -> Experiment:
    """What the `get_config()` of a run file returns. Raises ValueError or FileNotFoundError with one line."""
    path = Path(path)
    if not path.is_file():
        near = sorted(str(file) for file in Path("configs").glob("*.py"))
        have = f"; there are {', '.join(near)}" if near else ""
        raise FileNotFoundError(f"no run file {path}{have}")
    spec = importlib.util.spec_from_file_location(f"run_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: a run file is a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "get_config", None)):
        raise ValueError(f"{path}: a run file defines get_config() -> Experiment")
    return module.get_config()


def parse_run(arguments: Sequence[str]) -> tuple[RunOptions, Experiment]:
    """(options, experiment) of a training command line; misspelt flags are refused with a hint."""
    return parse_run_file(
        arguments,
        lambda run_file: RunOptions(workdir=Path("runs") / Path(run_file).stem),
        usage=USAGE,
        description="Train what the run file describes.",
    )


def parse_run_file(
    arguments: Sequence[str], defaults_of: Callable[[str], Any], *, usage: str, description: str
) -> tuple[Any, Experiment]:
    """(options, experiment) of `RUN_FILE [--option value …] [--field value …]`, for any command that takes a run file.

    `defaults_of`: a run file's path to the command's own options, a dataclass; `usage`: "usage: COMMAND RUN_FILE …".
    """
    from tyro import conf

    command = usage.removeprefix("usage: ").split(" RUN_FILE")[0]
    if not arguments or arguments[0].startswith("-"):
        if {"-h", "--help"} & set(arguments):
            print(f"{usage}\n\n`{command} RUN_FILE --help` lists every field.")
            sys.exit(0)
        raise ValueError(f"name a run file first. {usage}")
    run_file, *rest = arguments
    default, defaults = load_run_file(run_file), defaults_of(run_file)

    kind: Any = type(defaults)
    unnamed = conf.arg(name="")  # `--train.seed`, not `--experiment.train.seed`

    def both(
        options: Annotated[kind, unnamed] = defaults,  # pyright: ignore[reportInvalidTypeForm]
        experiment: Annotated[Experiment, unnamed] = default,
    ) -> tuple[Any, Experiment]:
        return options, experiment

    return parse_arguments(
        both,
        rest,
        prog=f"{command.removeprefix('python ')} {run_file}",
        description=default.description or description,
        config=(conf.AvoidSubcommands,),
    )


def parse_arguments(
    target: Any, arguments: Sequence[str] | None = None, *, prog: str, **options: Any
) -> Any:
    """`tyro.cli` whose refusals are a ValueError of one line instead of a box on the screen."""
    import tyro

    box = io.StringIO()
    try:
        with redirect_stderr(box):
            with _whole_addresses():
                return tyro.cli(target, args=arguments, prog=prog, **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(f"{_in_one_line(box.getvalue())} (--help lists all)") from None


def _whole_addresses() -> Any:
    """Rules for tyro by which an option of type Path takes gs:// addresses, of which pathlib would lose a slash."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def path_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if info.type is not Path:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="PATH",
            instance_from_str=lambda arguments: parse_path(arguments[0]),
            is_instance=lambda value: isinstance(value, PurePath),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _in_one_line(box: str) -> str:
    """What tyro's box says: the complaint, and the first options that were perhaps meant.

    Its sections stand between rulers: a title (part of the frame where the terminal can draw one), the complaint,
    then hints, the last of them where to find help.
    """
    framed = box.lstrip().startswith("╭")
    sections = list(_sections(box))[0 if framed else 1 :]
    if not sections:
        return " ".join(box.split())
    text = " ".join(sections[0])
    for hint in sections[1:]:
        if hint[0].startswith("Perhaps you meant"):
            names = [_nearest(line, text) for line in hint[1:] if line.startswith("--")]
            text += f"; perhaps {' or '.join(names[:2])}?" if names else ""
    return text


def _nearest(line: str, complaint: str) -> str:
    """Of the names of one option that a hint lists, "--caption, --prompt STR", the one most like the misspelt one."""
    names = [word.rstrip(",") for word in line.split() if word.startswith("--")]
    misspelt = [word.rstrip(",") for word in complaint.split() if word.startswith("--")]
    wanted = misspelt[0] if misspelt else names[0]
    return max(names, key=lambda name: SequenceMatcher(None, wanted, name).ratio())


def _sections(box: str) -> Iterator[list[str]]:
    """The lines inside of a box, split at its rulers and its frame."""
    section: list[str] = []
    for line in box.splitlines():
        text = line.strip(" │")
        if text.startswith(("╭", "╰")) or not text.strip("─-"):
            if section:
                yield section
            section = []
        else:
            section.append(text)
    if section:
        yield section


def describe(config: Any, indent: str = "") -> str:
    """A config as indented lines, `field: value`."""
    from dataclasses import fields, is_dataclass

    lines = []
    for field in fields(config):
        value = getattr(config, field.name)
        items = value if isinstance(value, tuple) and any(map(is_dataclass, value)) else None
        if is_dataclass(value):
            lines += [f"{indent}{field.name}:", describe(value, indent + "  ")]
        elif items is not None:
            lines.append(f"{indent}{field.name}:")
            lines += [f"{indent}  {place}: {item}" for place, item in enumerate(items)]
        elif field.repr:
            lines.append(f"{indent}{field.name}: {value}")
    return "\n".join(lines)
