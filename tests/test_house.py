"""The rules of the house that a machine can read: sizes, docstrings, paths, requirements, documents."""

import ast
import doctest
import importlib
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lumina_jax"
SOURCE_FOLDERS = ("lumina_jax", "configs", "benchmarks", "launch", "tests", ".ci")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".sh", ".yml", ".yaml", ".svg", ""}

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60

# A path of somebody's machine: a top folder where people or programs keep things, then a name.
HOMES = ("work", "root", "home", "Users", "tmp", "mnt")
MACHINE_PATH = re.compile(r"(?<![\w./:~$})-])/(?:" + "|".join(HOMES) + r")/\w")

IMPORT_NAMES = {
    "absl": "absl-py",
    "PIL": "pillow",
    "orbax": "orbax-checkpoint",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
}
UNDECLARED = {"importlib-resources"}  # needed by a dependency that does not say so

Function = ast.FunctionDef | ast.AsyncFunctionDef


def text_files() -> list[Path]:
    """The files that people read: those of the root, and of the source and document folders."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in (*SOURCE_FOLDERS, "docs"):
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    return sorted(
        path
        for path in found
        if path.suffix in TEXT_SUFFIXES and not {"assets", "golden", "__pycache__"} & {*path.parts}
    )


def python_files() -> list[Path]:
    """Every Python file of the project."""
    return [path for path in text_files() if path.suffix == ".py"]


def is_public(name: str) -> bool:
    """Whether `name` is meant for callers."""
    return not name.startswith("_")


def is_protocol(node: ast.ClassDef) -> bool:
    """Whether a class only lists what others must have; its own docstring speaks for its members."""
    return "Protocol" in {ast.unparse(base) for base in node.bases}


def length_problems(text: str) -> Iterator[str]:
    """Files and functions that are too long to be read at once."""
    lines = len(text.splitlines())
    if lines > MAX_FILE_LINES:
        yield f"{lines} lines, at most {MAX_FILE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Function):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{node.name}: {lines} lines, at most {MAX_FUNCTION_LINES}"


def opening_problems(text: str) -> Iterator[str]:
    """Files that do not open by saying what they are."""
    if not ast.get_docstring(ast.parse(text)):
        yield "the file does not open with a docstring"


def docstring_problems(text: str) -> Iterator[str]:
    """Public functions, classes and methods without a docstring."""
    waiting: list[tuple[str, ast.AST]] = [("", ast.parse(text))]
    while waiting:
        prefix, parent = waiting.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, Function | ast.ClassDef) and is_public(node.name):
                if not ast.get_docstring(node):
                    yield f"{prefix}{node.name} has no docstring"
                if isinstance(node, ast.ClassDef) and not is_protocol(node):
                    waiting.append((f"{prefix}{node.name}.", node))


def path_problems(text: str) -> Iterator[str]:
    """Absolute paths of one machine."""
    for number, line in enumerate(text.splitlines(), 1):
        if MACHINE_PATH.search(line):
            yield f"line {number}: a path of one machine: {line.strip()}"


def problems_in(files: list[Path], check) -> str:
    """The findings of `check` over `files`, one a line."""
    return "\n".join(
        f"{path.relative_to(ROOT)}: {problem}"
        for path in files
        for problem in check(path.read_text(encoding="utf-8"))
    )


@pytest.mark.parametrize("check", [length_problems, opening_problems])
def test_every_python_file_has_no(check) -> None:
    assert problems_in(python_files(), check) == ""


def test_public_names_of_the_package_have_docstrings() -> None:
    assert problems_in(sorted(PACKAGE.rglob("*.py")), docstring_problems) == ""


def test_no_file_names_a_path_of_one_machine() -> None:
    assert problems_in(text_files(), path_problems) == ""


LONG_FUNCTION = "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES
REFUSED = {
    "long file": (length_problems, "x = 1\n" * (MAX_FILE_LINES + 1)),
    "long function": (length_problems, LONG_FUNCTION),
    "long method": (length_problems, "class A:\n" + textwrap.indent(LONG_FUNCTION, "    ")),
    "no opening": (opening_problems, "import os\n"),
    "bare function": (docstring_problems, "def f():\n    return 1\n"),
    "bare class": (docstring_problems, "class A:\n    x = 1\n"),
    "bare method": (docstring_problems, 'class A:\n    """A."""\n    def f(self):\n        pass\n'),
    "path in quotes": (path_problems, f"load('/{HOMES[0]}/model')"),
    "path in prose": (path_problems, f"it lies in /{HOMES[2]}/ann/model"),
}
ACCEPTED = {
    "file of the longest length": (length_problems, "x = 1\n" * MAX_FILE_LINES),
    "function of the longest length": (
        length_problems,
        LONG_FUNCTION.replace("    x = 1\n", "", 1),
    ),
    "opening": (opening_problems, '"""What it is."""\n'),
    "private": (docstring_problems, "def _f():\n    return 1\n\nclass _A:\n    x = 1\n"),
    "protocol": (
        docstring_problems,
        'class A(Protocol):\n    """A."""\n    def f(self): ...\n',
    ),
    "dunder and nested": (
        docstring_problems,
        'class A:\n    """A."""\n    def __call__(self):\n        def g(): pass\n',
    ),
    "an address": (path_problems, f"https://example.org/{HOMES[2]}/page and runs/{HOMES[0]}/x"),
    "a shebang": (path_problems, "#!/usr/bin/env bash"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_checks_refuse(case: str) -> None:
    check, text = REFUSED[case]
    assert list(check(text))


@pytest.mark.parametrize("case", ACCEPTED)
def test_checks_accept(case: str) -> None:
    check, text = ACCEPTED[case]
    assert list(check(text)) == []


WITH_EXAMPLES = [p for p in PACKAGE.rglob("*.py") if ">>> " in p.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples_in_docstrings_hold(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.testmod(module, optionflags=flags)
    assert (result.failed, result.attempted > 0) == (0, True)


def distribution(requirement: str) -> str:
    """The name on the package index: "ml_dtypes>=0.5" -> "ml-dtypes"."""
    return re.split(r"[^\w.-]", requirement.strip())[0].replace("_", "-").lower()


def required(file: str) -> set[str]:
    """The distributions that a requirements file names."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return {distribution(line) for line in lines if line.strip() and not line.startswith("#")}


def imported_distributions() -> set[str]:
    """The distributions whose modules the package and its entry points import."""
    modules = set()
    for path in [*PACKAGE.rglob("*.py"), *ROOT.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module or "")
    tops = {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names)
    return {distribution(IMPORT_NAMES.get(top, top)) for top in tops - {PACKAGE.name}}


def test_requirements_name_what_the_package_imports_and_nothing_else() -> None:
    assert required("requirements.txt") - UNDECLARED == imported_distributions()


def test_every_requirement_has_both_bounds() -> None:
    for file in ROOT.glob("requirements*.txt"):
        for line in file.read_text(encoding="utf-8").splitlines():
            requirement = line.partition("#")[0].strip()
            bounded = "==" in requirement or (">=" in requirement and "<" in requirement)
            assert bounded or not requirement, f"{file.name}: {line}"


def test_architecture_names_every_room_of_the_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = [path.name for path in PACKAGE.iterdir() if path.is_dir() and is_public(path.name)]
    files = [path.name for path in PACKAGE.glob("*.py") if is_public(path.stem)]
    names = [*(f"`{name}/`" for name in folders), *(f"`{name}`" for name in files)]
    assert [name for name in names if name not in text] == []


def test_readme_names_every_module_of_the_package() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", readme.split("## The file tree")[1]))
    modules = [path for path in PACKAGE.rglob("*.py") if is_public(path.stem)]
    missing = {str(path.relative_to(ROOT)) for path in modules if path.stem not in words}
    assert missing == set()


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"", text):
            path = target[0] or target[1]
            exists = path.startswith("http") or (document.parent / path).exists()
            assert exists, f"{document.relative_to(ROOT)} links to {path}, which is not there"
