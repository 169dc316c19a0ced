"""torch-fidelity imports torchvision for data and networks that FID has no use for: the tests do without."""

import importlib.util
import sys
from types import ModuleType
from unittest.mock import MagicMock

import pytest

MODULES = ("torchvision", "torchvision.datasets", "torchvision.transforms.functional")


@pytest.fixture(autouse=True, scope="session")
def torchvision_or_none():
    """Names to import in the place of torchvision where it is absent; whatever calls one fails."""
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for name in (*MODULES, "torchvision.transforms"):
            patch.setitem(sys.modules, name, Absent(name))
        yield


class Absent(ModuleType):
    """A module whose every name raises once it is called."""

    __path__: list[str] = []

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(side_effect=NotImplementedError(f"{self.__name__}.{name}"))
