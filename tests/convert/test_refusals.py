"""What cannot be converted is refused in one line with exit code 2, and leaves nothing that looks like a checkpoint."""

import json
import os
import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lumina_jax.checkpoint import CheckpointError, load_model
from lumina_jax.cli import run_main
from lumina_jax.convert.__main__ import main
from lumina_jax.convert.weights import open_checkpoint


@pytest.fixture
def meta(release) -> Path:
    """Four shards that a test may break."""
    return release("meta")


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """`refused(source, …)`: the one line with which the command ends; no destination is left."""

    def run(source: Path, *options: str, target: Path | None = None) -> str:
        target = target or tmp_path / "model"
        existed = target.exists()
        with pytest.raises(SystemExit) as stop:
            run_main(lambda: main([str(source), str(target), *options]))
        assert stop.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert len(lines) == 1 and lines[0].startswith("error: ")
        assert target.exists() == existed
        return lines[0]

    return run


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(bytes(content))


def test_truncated_shard_is_refused(meta, refused):
    path = meta / "consolidated.02.pth"
    path.write_bytes(path.read_bytes()[:-100_000])
    assert "consolidated.02.pth" in refused(meta)


def test_flipped_bit_in_a_shard_is_refused(meta, refused):
    """In the middle of a weight, where only the zip's checksum sees it."""
    path = meta / "consolidated.01.pth"
    flip(path, path.stat().st_size // 2)
    assert "consolidated.01.pth" in refused(meta)


def test_truncated_safetensors_are_refused(release, refused):
    path = release("hf") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    assert "model.safetensors" in refused(path.parent)


def test_missing_shard_is_refused(meta, refused):
    (meta / "consolidated.03.pth").unlink()
    line = refused(meta)
    assert "has 3 consolidated*.pth files, its parameters say 4: consolidated.03.pth" in line


def test_shard_that_is_there_twice_is_refused(meta, refused):
    """Under a name of a browser's, and under the name of the missing one."""
    shutil.copy(meta / "consolidated.00.pth", meta / "consolidated.00 (1).pth")
    assert "consolidated.00 (1).pth is missing or too much" in refused(meta)
    (meta / "consolidated.00 (1).pth").replace(meta / "consolidated.01.pth")
    assert "shards 0 and 1 hold the same weights" in refused(meta)


def test_shards_of_two_models_are_refused(meta, refused):
    """The same shapes; only what shards replicate gives them away."""
    from lumina_jax.convert.tensor_files import open_tensors
    from lumina_jax.convert.write_tensors import write_pth

    path = meta / "consolidated.02.pth"
    stored = {key: tensor.read().copy() for key, tensor in open_tensors(path).items()}
    stored["layers.1.ffn_norm.weight"] *= 1.03  # as a fine-tuned model's
    write_pth(path, {k: (v.shape, v.dtype) for k, v in stored.items()}, stored.__getitem__)
    assert "shards of different models: layers.1.ffn_norm.weight" in refused(meta)


def test_config_of_another_size_is_refused(meta, refused):
    text = (meta / "params.json").read_text()
    (meta / "params.json").write_text(text.replace('"dim": 64', '"dim": 32'))
    line = refused(meta)
    assert "tok_embeddings.weight has shape" in line and "different models" in line


def test_wrong_preset_is_refused(meta, refused):
    assert "num_layers is 2, preset 34b has 48" in refused(meta, "--preset", "34b")
    assert "unknown preset '9b'" in refused(meta, "--preset", "9b")


def test_pickle_that_wants_to_run_code_is_refused_and_does_not_run(meta, refused, tmp_path):
    """Where a tensor should be."""
    target = tmp_path / "written"

    class Harmful:
        def __reduce__(self):
            return (os.system, (f"touch {target}",))

    with zipfile.ZipFile(meta / "consolidated.00.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"norm.weight": Harmful()}, protocol=2))
    assert "consolidated.00.pth" in refused(meta)
    assert not target.exists()


def test_existing_destination_is_refused_and_kept(meta, refused, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").write_text("kept")
    assert "model exists" in refused(meta)
    assert "model exists" in refused(meta, "--to", "lumina")
    assert (tmp_path / "model" / "mine").read_text() == "kept"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda root: (root / "tokenizer/text_tokenizer.json").unlink(),
            "give it with --tokenizer",
        ),
        (lambda root: (root / "tokenizer/vqgan.ckpt").unlink(), "give it with --vqgan"),
        (lambda root: (root / "tokenizer/vqgan.yaml").unlink(), "vqgan.yaml is missing"),
        (lambda root: (root / "meta/params.json").write_text("{"), "params.json is not JSON"),
        (lambda root: (root / "meta/params.json").write_text("{}"), "the field 'dim' is missing"),
        (lambda root: (root / "meta/params.json").write_text('{"model": []}'), "not a Chameleon"),
        (lambda root: (root / "meta/lumina_jax.json").write_text('{"model": {"a": 1}}'), "notes"),
        (lambda root: shutil.rmtree(root / "meta"), "no such folder"),
        (lambda root: (root / "meta/params.json").unlink(), "neither params.json"),
    ],
)
def test_what_is_missing_is_named(meta, refused, break_it, message):
    break_it(meta.parent)
    assert message in refused(meta)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rope_scaling", {"type": "linear", "factor": 8}, "type is 'linear'"),
        ("rope_parameters", {"rope_type": "yarn"}, "rope_type is 'yarn'"),
        ("hidden_act", "gelu", "hidden_act is 'gelu'"),
        ("head_dim", 9, "head_dim is 9"),
        ("num_hidden_layers", "2", "want a whole number"),
        ("tie_word_embeddings", True, "tie_word_embeddings is True"),
    ],
)
def test_config_of_another_architecture_is_refused(release, refused, field, value, message):
    folder = release("hf")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, field: value}))
    assert message in refused(folder)


def test_options_of_a_release_are_refused_for_a_checkpoint(tiny_34b_checkpoint, refused):
    """It has its own tokenizer and VQGAN; its size and layout are checked."""
    assert "preset 34b has 48" in refused(tiny_34b_checkpoint, "--preset", "34b")
    assert "its own vqgan" in refused(tiny_34b_checkpoint, "--vqgan", "vqgan.ckpt")
    assert "unknown image layout 'x'" in refused(tiny_34b_checkpoint, "--image-layout", "x")


def test_what_somebody_else_left_is_not_removed(tiny_34b_checkpoint, refused, tmp_path):
    """A folder that ends like our unfinished ones; the checkpoint that a killed save set aside."""
    mine = tmp_path / "model.unfinished" / "mine"
    mine.parent.mkdir()
    mine.write_text("kept")
    assert "is no unfinished export" in refused(tiny_34b_checkpoint, "--to", "meta")
    assert "something else" in refused(tiny_34b_checkpoint)
    mine.parent.rename(tmp_path / "model.previous")
    assert "model.previous exists" in refused(tiny_34b_checkpoint)
    assert (tmp_path / "model.previous" / "mine").read_text() == "kept"


def test_tokenizer_of_another_model_is_refused(meta, refused, small_tokenizer):
    assert "do not belong together" in refused(meta, "--tokenizer", str(small_tokenizer.path))


def test_model_that_a_layout_cannot_hold_is_refused(refused):
    """The shipped one: a sentencepiece tokenizer."""
    assert "text_tokenizer.json" in refused(Path("scenes"), "--to", "meta")
    assert "unknown target 'onnx'" in refused(Path("scenes"), "--to", "onnx")


@pytest.mark.slow
def test_flipped_bytes_of_a_converted_checkpoint_never_load(tiny_34b_checkpoint, tmp_path):
    """In every data file in turn: an error, or the same bits where the byte belongs to no array."""
    whole = {
        name: x.read().tobytes() for name, x in open_checkpoint(tiny_34b_checkpoint).leaves.items()
    }
    files = [path for path in tiny_34b_checkpoint.rglob("d/*") if path.stat().st_size > 1000]
    outcomes = []
    for number, path in enumerate(files):
        copy = tmp_path / str(number)
        shutil.copytree(tiny_34b_checkpoint, copy)
        broken = copy / path.relative_to(tiny_34b_checkpoint)
        flip(broken, broken.stat().st_size // 2)
        try:
            leaves = open_checkpoint(copy).leaves
            assert {name: leaf.read().tobytes() for name, leaf in leaves.items()} == whole
            outcomes.append("harmless")
        except CheckpointError as error:
            assert str(copy) in str(error) and "\n" not in str(error)
            outcomes.append("refused")
            with pytest.raises(CheckpointError):
                load_model(copy)
    assert "refused" in outcomes


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 4 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True
    )
    if mount.returncode:
        pytest.skip("mounting a file system takes more rights than this user has")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("options", [[], ["--to", "lumina"]], ids=["checkpoint", "lumina"])
def test_full_disk_is_said_and_leaves_no_checkpoint(meta, refused, small_disk, options):
    """Half of it fits."""
    line = refused(meta, *options, target=small_disk / "model")
    assert "the disk is full" in line or "No space left on device" in line
    assert "small" in line
