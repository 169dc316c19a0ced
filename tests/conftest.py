"""What all tests share: JAX on eight fake CPU devices with a compile cache, and the golden data."""

import gzip
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
GOLDEN_ROOT = Path(__file__).resolve().parent / "golden"
GOLDEN_NAMES = ("tiny_7b", "tiny_34b")


XLA_FLAGS: dict[str, Any] = {
    "xla_force_host_platform_device_count": 8,
    "xla_backend_optimization_level": 0,  # tests compile much and compute little
}
if os.environ.get("QUICK_COMPILES") == "1" and metadata.version("jaxlib").startswith("0.10."):
    # XLA's former emitters compile in half the time; later versions have neither them nor the flag. What users run
    # comes from the others, as in `make test-slow`.
    XLA_FLAGS["xla_cpu_use_fusion_emitters"] = "false"


def _set_jax_environment() -> None:
    """Choose JAX's platform, fake devices and compile cache before jax is imported; what is set already stays."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    given = os.environ.get("XLA_FLAGS", "")
    ours = [f"--{flag}={value}" for flag, value in XLA_FLAGS.items() if flag not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *ours]).strip()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _take_a_share_of_the_cores() -> None:
    """Give every xdist worker cores of its own: thread pools of the size of the machine would fight for them."""
    worker, count = (
        os.environ.get("PYTEST_XDIST_WORKER"),
        os.environ.get("PYTEST_XDIST_WORKER_COUNT"),
    )
    if worker is None or count is None or not hasattr(os, "sched_setaffinity"):
        return
    mine = sorted(os.sched_getaffinity(0))[int(worker.removeprefix("gw")) :: int(count)]
    if mine:
        os.sched_setaffinity(0, mine)


_set_jax_environment()
_take_a_share_of_the_cores()


@dataclass(frozen=True)
class Golden:
    """One folder of golden data, read on demand."""

    name: str
    path: Path  # the folder

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Every array of golden.npz."""
        with np.load(self.path / "golden.npz") as stored:
            return {key: stored[key] for key in stored}

    def __getitem__(self, key: str) -> np.ndarray:
        """One array of golden.npz."""
        return self.arrays[key]

    @property
    def crops(self) -> dict[int, list[tuple[int, int]]]:
        """Allowed crops (width, height) px by number of 32 px units."""
        stored = json.loads(str(self["crops"]))
        return {int(count): [tuple(size) for size in sizes] for count, sizes in stored.items()}

    @property
    def prompt(self) -> str:
        """The text-to-image prompt behind `prompt_ids`."""
        return str(self["prompt"])

    @property
    def conversation(self) -> dict:
        """The record behind `conv_ids`."""
        return json.loads((self.path / "conversation.json").read_text())

    def image(self, kind: str) -> Image.Image:
        """img_<kind>.png: "wide", "square" or "rgba"."""
        return Image.open(self.path / f"img_{kind}.png")

    def image_ids(self, file_name: str) -> list[int]:
        """The original's ids of "img_wide.png" and the like: an `encode_image` for conversations."""
        return self[Path(file_name).stem.replace("img_", "tok_")].tolist()


@pytest.fixture(scope="session")
def load_golden() -> Callable[[str], Golden]:
    """`load_golden("tiny_7b")`: one folder by name."""
    folders = {name: Golden(name, GOLDEN_ROOT / name) for name in GOLDEN_NAMES}
    return lambda name: folders[name]


@pytest.fixture(scope="session", params=GOLDEN_NAMES)
def golden(request: pytest.FixtureRequest, load_golden: Callable[[str], Golden]) -> Golden:
    """Each folder of golden data in turn."""
    return load_golden(request.param)


@pytest.fixture(scope="session")
def golden_tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden tokenizer, unpacked as text_tokenizer.json."""
    path = tmp_path_factory.mktemp("tokenizer") / "text_tokenizer.json"
    path.write_bytes(gzip.decompress((GOLDEN_ROOT / "text_tokenizer.json.gz").read_bytes()))
    return path


@pytest.fixture(scope="session")
def unpack_release(
    golden_tokenizer_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Golden, str], Path]:
    """`unpack_release(golden, "meta")`: a copy of a tiny model in that release layout, tokenizer/ beside it."""

    def unpack_into(folder: Path, golden: Golden) -> Path:
        folder.mkdir()
        for source in (golden.path / folder.name).iterdir():
            packed = source.suffix == ".gz"
            content = gzip.decompress(source.read_bytes()) if packed else source.read_bytes()
            (folder / source.name.removesuffix(".gz")).write_bytes(content)
        return folder

    def unpack(golden: Golden, layout: str) -> Path:
        root = tmp_path_factory.mktemp(golden.name)
        tokenizer = unpack_into(root / "tokenizer", golden)
        (tokenizer / golden_tokenizer_path.name).symlink_to(golden_tokenizer_path)
        return tokenizer if layout == "tokenizer" else unpack_into(root / layout, golden)

    return unpack


@pytest.fixture(scope="session")
def golden_release(golden: Golden, unpack_release) -> Callable[[str], Path]:
    """`golden_release("meta")`, `("hf")` or `("tokenizer")` of each golden model in turn."""
    return lambda layout: unpack_release(golden, layout)


@pytest.fixture(scope="session")
def golden_checkpoint(golden_release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as Lumina-mGPT released it, converted by the command to compute in float32 at 96 px."""
    from lumina_jax.convert.__main__ import main

    path = tmp_path_factory.mktemp("converted") / "model"
    options = ["--compute-dtype", "float32", "--target-px", "96", "--max-tokens", "128"]
    main([str(golden_release("hf")), str(path), *options])
    return path


@pytest.fixture(scope="session")
def golden_tokenizer(golden_tokenizer_path: Path):
    """The golden tokenizer, loaded."""
    from lumina_jax.unirep.text import load_tokenizer

    return load_tokenizer(golden_tokenizer_path)


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory: pytest.TempPathFactory):
    """A sentencepiece model with 64 image codes and 17 size tokens, trained on a few prompts."""
    from lumina_jax.unirep.tasks import template_phrases, text_to_image
    from lumina_jax.unirep.train_text import train_sentencepiece

    texts = [
        text_to_image(width, height, f"a {size} {colour} {shape}, please.\nIt is {colour}.")
        for width, height in ((128, 128), (160, 96), (96, 160))
        for size in ("small", "large")
        for colour in ("red", "green", "purple")
        for shape in ("circle", "star", "square")
    ]
    path = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model"
    return train_sentencepiece(texts, path, 64, 17, 700, template_phrases())


@pytest.fixture(scope="session")
def small_lumina(small_tokenizer):
    """A whole model with random weights that paints up to 128x128 px: 8 px a code, 16 px a grid unit, 64 codes."""
    from lumina_jax.config import GridConfig, ModelConfig, TransformerConfig, VQGANConfig
    from lumina_jax.lumina import Lumina
    from lumina_jax.model.params import abstract_params
    from lumina_jax.vqgan.codec import abstract_vqgan

    transformer = TransformerConfig(
        num_layers=2,
        width=32,
        num_heads=4,
        num_kv_heads=2,
        head_size=8,
        mlp_width=64,
        vocab_size=small_tokenizer.vocab.size,
    )
    vqgan = VQGANConfig(
        channels=8,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        z_channels=4,
        code_width=4,
        num_codes=64,
        num_groups=4,
        stem_px=4,
    )
    grid = GridConfig(patch_px=8, unit_px=16, max_units=16)
    config = ModelConfig(transformer, vqgan, grid, max_tokens=400, target_px=128)
    params, vqgan_params = _random(abstract_params(transformer)), _random(abstract_vqgan(vqgan))
    return Lumina(config, params, vqgan_params, small_tokenizer)


@pytest.fixture(scope="session")
def _gcs_server() -> Iterator[tuple[Any, str]]:
    """A fake of Cloud Storage for this process and its children; the libraries look at these variables once."""
    from tests.fake_gcs import serve

    server, storage = serve()
    host = f"http://127.0.0.1:{server.server_address[1]}"
    os.environ["STORAGE_EMULATOR_HOST"] = os.environ["TENSORSTORE_GCS_HTTP_URL"] = host
    os.environ["FSSPEC_GCS_TOKEN"] = "anon"
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # what it asks over gRPC is not faked
    os.environ["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"]))
    yield storage, host
    server.shutdown()


@pytest.fixture
def fake_gcs(
    _gcs_server: tuple[Any, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """An empty bucket of the test's own: `.url`, `.put`, `.get`, `.names`, `.bytes_read`; see tests/fake_gcs.py."""
    from tests.fake_gcs import FakeGCS

    storage, host = _gcs_server
    monkeypatch.setenv("LUMINA_JAX_CACHE", str(tmp_path / "cache"))
    return FakeGCS(storage, host, f"bucket-{len(storage.buckets)}")


def _random(abstract: Any) -> Any:
    """Arrays of the abstract ones' shapes, drawn by numpy: compiling an initialiser takes longer than all of it."""
    import jax

    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), abstract)
