"""`pip install .` brings the package and the shipped model, wherever it is then used from."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "lumina_jax")
CACHES = shutil.ignore_patterns("__pycache__")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean virtual environment's python with the package installed from a copy of this tree.

    The dependencies are those of the running environment: the package and its data are in question.
    """
    folder = tmp_path_factory.mktemp("install")
    source = folder / "source"
    source.mkdir()
    for name in (*BUILT_FROM, *(path.name for path in ROOT.glob("requirements*.txt"))):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=CACHES)
        else:
            shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    (site_packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", source]
    subprocess.run(pip, check=True)
    return python


def run_elsewhere(python: Path, code: str, folder: Path) -> str:
    """What `code` prints, run by `python` in `folder`."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        [python, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.slow
def test_installed_package_holds_every_file_of_the_source(installed: Path, tmp_path: Path) -> None:
    code = "import lumina_jax, os; print(os.path.dirname(lumina_jax.__file__))"
    package = Path(run_elsewhere(installed, code, tmp_path))
    assert "site-packages" in package.parts

    def files(folder: Path) -> set[str]:
        found = (path for path in folder.rglob("*") if path.is_file())
        return {str(p.relative_to(folder)) for p in found if "__pycache__" not in p.parts}

    assert files(package) == files(ROOT / "lumina_jax")


@pytest.mark.slow
def test_shipped_model_loads_from_another_folder(installed: Path, tmp_path: Path) -> None:
    code = "from lumina_jax import Lumina; print(type(Lumina.load('scenes')).__name__)"
    assert run_elsewhere(installed, code, tmp_path) == "Lumina"
