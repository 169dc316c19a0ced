"""The floors of the package, read from its imports: each module may lean only on what lies below it.

The same table, with reasons, stands in docs/architecture.md.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "lumina_jax"

FLOOR_ROOMS = (  # F0 upwards; a file that stands on another floor than its folder has an entry of its own
    "dims chips config config_json paths pickle_tree",
    "unirep data_config experiment compiler_options",
    "ops sharding checksums",
    "model vqgan",
    "orbax_io checkpoint model_writer image_files generated_image contact_sheet plots train.curriculum",
    "convert data",
    "train sampling",
    "lumina loading painting token_model answering chat",
    "asking cli compile_cache evals serving",
    "app cluster official pictures plan release evals.ablate.arms evals.ablate.children",
)
FLOORS = {name: level for level, rooms in enumerate(FLOOR_ROOMS) for name in rooms.split()}
ENTRY_FLOOR = 10  # __main__ files and the package's own __init__: nothing imports them

CORE = {"jax", "flax", "optax", "numpy"}
LIBRARIES = {  # third-party modules that a room or module may import; one that is not here may import any
    "dims": {"jaxtyping", "beartype"},
    "chips": set(),
    "config": set(),
    "config_json": set(),
    "paths": {"etils", "fsspec", "tqdm"},
    "pickle_tree": set(),
    "compiler_options": set(),
    "unirep": {"numpy", "PIL", "sentencepiece", "tokenizers"},
    **dict.fromkeys(["ops", "sharding", "model", "vqgan", "sampling"], CORE),
    "ops.quantize": CORE | {"qwix"},  # when something is quantised, not before
    "ops.low_precision": CORE | {"qwix"},  # the same
}
CORE_MODULES = ("train.step", "train.vqgan_step")  # these too, with everything that they import
ENTRY_ONLY = {"tyro"}  # in cli.py and in files that can be run
NEVER = {"torch", "transformers", "configs", "tests", "benchmarks"}

Sources = Mapping[str, str]  # "dims", "unirep.grid", "unirep.__init__", "__init__" -> text


def room(module: str) -> str:
    """The folder or root file that a module belongs to: "unirep.grid" -> "unirep"."""
    return module.split(".")[0]


def is_entry(module: str) -> bool:
    """Whether nothing may import `module`: it is where a program starts."""
    return module == "__init__" or module.split(".")[-1] == "__main__"


def floor(module: str) -> int:
    """The floor of `module`, or a KeyError that says where to add a new room."""
    if is_entry(module):
        return ENTRY_FLOOR
    if room(module) not in FLOORS:
        raise KeyError(f"{room(module)!r} has no floor: add it to FLOORS and docs/architecture.md")
    return FLOORS.get(module, FLOORS[room(module)])


@cache
def imported_names(text: str) -> tuple[str, ...]:
    """Every dotted name that `text` imports, at any depth; `from a import b` gives "a.b"."""
    return tuple(_imported_names(text))


def _imported_names(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def inner_imports(module: str, sources: Sources) -> set[str]:
    """The package's modules that `module` imports."""
    found = set()
    for name in imported_names(sources.get(module, "")):
        first, *parts = name.split(".")
        if first != PACKAGE:
            continue
        # `from lumina_jax.ops import norms` names a module, `… import rms_norm` what is in one
        depths = range(len(parts), -1, -1)
        named = [
            end for n in depths for end in (".".join(parts[:n]), ".".join([*parts[:n], "__init__"]))
        ]
        found.update([name for name in named if name in sources][:1])
    return found - {module}


def outer_imports(text: str) -> set[str]:
    """The third-party top-level modules that `text` imports."""
    tops = {name.split(".")[0] for name in imported_names(text)}
    return tops - set(sys.stdlib_module_names) - {PACKAGE}


def floor_problems(sources: Sources) -> list[str]:
    """Imports of a higher floor, or of a neighbour on the same floor; relative imports."""
    problems = []
    for module, text in sources.items():
        if any(name.startswith(".") for name in imported_names(text)):
            problems.append(f"{module}: relative import; write from {PACKAGE}. …")
        for other in inner_imports(module, sources):
            root_files = "." not in module and "." not in other
            same_folder = room(module) == room(other) or (
                root_files and floor(module) == floor(other)
            )
            if is_entry(other) or not (floor(other) < floor(module) or same_folder):
                problems.append(f"{module} (F{floor(module)}) imports {other} (F{floor(other)})")
    return problems


def reachable(module: str, sources: Sources) -> set[str]:
    """The modules that importing `module` brings in, without itself unless it is in a cycle."""
    seen: set[str] = set()
    waiting = inner_imports(module, sources)
    while waiting:
        seen |= waiting
        waiting = set().union(*(inner_imports(other, sources) for other in waiting)) - seen
    return seen


def cycle_problems(sources: Sources) -> list[str]:
    """Modules that import themselves by way of others."""
    return [f"{m}: in an import cycle" for m in sources if m in reachable(m, sources)]


def library_problems(sources: Sources) -> list[str]:
    """Third-party imports outside what a room may use."""
    allowed = {m: LIBRARIES.get(m, LIBRARIES.get(room(m))) for m in sources}
    for module in CORE_MODULES:
        for needed in {module, *reachable(module, sources)} if module in sources else ():
            allowed[needed] = CORE if allowed[needed] is None else allowed[needed]
    problems = []
    for module, text in sources.items():
        outer = outer_imports(text)
        bad = outer & NEVER
        if not (is_entry(module) or module == "cli" or '__name__ == "__main__"' in text):
            bad |= outer & ENTRY_ONLY
        if allowed[module] is not None:
            bad |= outer - allowed[module]
        problems += [f"{module} imports {name}" for name in sorted(bad)]
    return problems


def package_sources() -> dict[str, str]:
    """The text of every module of the package by its name inside it."""
    sources = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / PACKAGE).with_suffix("").parts)
        sources[name] = path.read_text(encoding="utf-8")
    return sources


CHECKS = [floor_problems, cycle_problems, library_problems]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_package_obeys(check) -> None:
    problems = check(package_sources())
    assert not problems, "\n".join(problems)


BROKEN = {
    "higher floor": (
        floor_problems,
        {"ops.x": "from lumina_jax.model import y", "model.__init__": ""},
    ),
    "same floor": (
        floor_problems,
        {"train.loop": "import lumina_jax.sampling", "sampling.__init__": ""},
    ),
    "other way": (floor_problems, {"sampling.x": "import lumina_jax.train", "train.__init__": ""}),
    "inside a function": (
        floor_problems,
        {"data.x": "def f():\n    from lumina_jax.lumina import Lumina", "lumina": ""},
    ),
    "the face from below": (
        floor_problems,
        {"__init__": "", "data.x": "from lumina_jax import Lumina"},
    ),
    "relative": (floor_problems, {"ops.x": "from . import y"}),
    "a __main__": (
        floor_problems,
        {"app.x": "import lumina_jax.evals.__main__", "evals.__main__": ""},
    ),
    "root file and folder": (
        floor_problems,
        {"sharding": "from lumina_jax.ops import norms", "ops.__init__": ""},
    ),
    "cycle": (
        cycle_problems,
        {
            "ops.a": "from lumina_jax.ops.b import x",
            "ops.b": "import lumina_jax.ops.c",
            "ops.c": "from lumina_jax.ops import a",
            "ops.__init__": "",
        },
    ),
    "jax in unirep": (library_problems, {"unirep.x": "import jax"}),
    "shape checker outside dims": (library_problems, {"ops.x": "from jaxtyping import Float"}),
    "tyro below": (library_problems, {"train.loop": "import tyro"}),
    "torch": (library_problems, {"convert.x": "import torch.nn"}),
    "run files": (library_problems, {"train.loop": "from configs import scenes"}),
    "the step by way of another": (
        library_problems,
        {
            "train.step": "from lumina_jax.train import a",
            "train.__init__": "",
            "train.a": "import grain",
        },
    ),
}
FINE = {
    "lower floor": {"model.x": "from lumina_jax.ops.y import z", "ops.y": "", "ops.__init__": ""},
    "own folder": {
        "train.loop": "from lumina_jax.train import step",
        "train.step": "",
        "train.__init__": "",
    },
    "root files of one floor": {"config_json": "from lumina_jax.config import X", "config": ""},
    "an entry": {
        "evals.__main__": "import tyro\nimport lumina_jax.app",
        "app.__init__": "",
        "evals.__init__": "",
    },
    "free room": {"data.x": "import grain, scipy.ndimage, json", "data.__init__": ""},
}


@pytest.mark.parametrize("case", BROKEN)
def test_checks_refuse(case: str) -> None:
    check, sources = BROKEN[case]
    assert len(check(sources)) >= 1


@pytest.mark.parametrize("case", FINE)
def test_checks_accept(case: str) -> None:
    assert [problem for check in CHECKS for problem in check(FINE[case])] == []


def test_room_without_a_floor_is_refused() -> None:
    with pytest.raises(KeyError, match="attic"):
        floor_problems({"attic.x": "import lumina_jax.ops", "ops.__init__": ""})


BARE_IMPORT = """
import importlib, sys
absent, modules = set(sys.argv[1].split()), sys.argv[2:]

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
for module in modules:
    importlib.import_module(module)
"""


def test_core_imports_where_the_other_libraries_are_absent() -> None:
    absent = (
        "tyro jaxtyping beartype grain array_record tensorflow_datasets tensorboardX matplotlib "
        "qwix"
    )
    rooms = {name for name, level in FLOORS.items() if level <= 3} | {"sampling"}
    core = [m for m in package_sources() if room(m) in rooms or m in CORE_MODULES]
    command = [sys.executable, "-c", BARE_IMPORT, absent, *(f"{PACKAGE}.{m}" for m in core)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_package_import_is_light() -> None:
    code = (
        f"import sys, {PACKAGE}; print([m for m in ('jax', 'numpy', 'tyro') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
