"""torch-fidelity imports torchvision for data and networks that FID has no use for: the tests do without."""

import importlib
import importlib.util
import sys
from types import ModuleType
from unittest.mock import MagicMock

import pytest

LIBRARY = ("torch_fidelity.feature_extractor_inceptionv3", "torch_fidelity.metric_fid")
MISSING = ("datasets", "transforms", "transforms.functional")


class Absent(ModuleType):
    """A module whose every name raises once it is called."""

    __path__: list[str] = []

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(side_effect=NotImplementedError(f"{self.__name__}.{name}"))


@pytest.fixture(scope="session")
def imported_fidelity() -> None:
    """The library, where it and torch are there; while it is imported names stand in for an absent torchvision."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "torch_fidelity")):
        return
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("torchvision") is None:
            for name in ("torchvision", *(f"torchvision.{part}" for part in MISSING)):
                patch.setitem(sys.modules, name, Absent(name))
        for name in LIBRARY:
            importlib.import_module(name)
