"""The command: what it finds, what it writes, that it goes on after a kill, and what it refuses in one line."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lumina_jax import Lumina, model_writer
from lumina_jax.checkpoint import digest, load_model
from lumina_jax.convert import to_checkpoint
from lumina_jax.convert.layouts import open_weights
from lumina_jax.convert.model_config import SourceOptions
from lumina_jax.convert.weights import open_checkpoint

LAYOUTS = {"meta": "Meta's layout", "hf": "Lumina-mGPT's layout"}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("layout", [pytest.param("meta", marks=pytest.mark.slow), "hf"])
def test_logits_equal_the_originals_through_the_command(
    golden, golden_release, convert, tmp_path, layout
):
    """Both layouts of both models, in float32: within 1e-4 at five positions."""
    said = convert(golden_release(layout), tmp_path / "model", "--compute-dtype", "float32")
    assert (
        LAYOUTS[layout] in said and "tokenizer/vqgan.ckpt" in said and "preset: of its own" in said
    )
    model = Lumina.load(tmp_path / "model")
    assert model.config.image_layout == ("uni_rep" if layout == "hf" else "chameleon")
    logits = model.logits(golden["logits_ids"])
    np.testing.assert_allclose(logits[:, [0, 9, 18, 27, 36]], golden["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "target",
    ["meta", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lumina", "transformers"))],
)
def test_back_and_forth_is_the_same_bits(tiny_34b_checkpoint, convert, tmp_path, target):
    """Checkpoint -> layout -> checkpoint: every array the layout can hold, and the config."""
    said = convert(tiny_34b_checkpoint, tmp_path / target, "--to", target)
    convert(tmp_path / target, tmp_path / "again")
    ours, again = open_checkpoint(tiny_34b_checkpoint), open_checkpoint(tmp_path / "again")
    for name, leaf in again.leaves.items():
        assert leaf == ours.leaves[name]
        assert leaf.read().tobytes() == ours.leaves[name].read().tobytes(), name
    lost = ours.leaves.keys() - again.leaves.keys()
    assert bool(lost) == (target == "transformers") == ("left out: the VQGAN's decoder" in said)
    assert all(name.startswith("vqgan/decoder/") for name in lost)
    if not lost:
        assert again.config == ours.config
        assert digest(tmp_path / "again") == digest(tiny_34b_checkpoint)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_release_comes_back_as_the_same_tensors(golden_release, convert, tmp_path, layout):
    """Meta -> ours -> Meta (1 shard, 4 shards) and Lumina-mGPT's: the very tensors of the files."""
    source = golden_release(layout)
    convert(source, tmp_path / "model")
    target = "meta" if layout == "meta" else "lumina"
    convert(tmp_path / "model", tmp_path / "back", "--to", target)
    from lumina_jax.convert.tensor_files import open_tensors

    names = sorted(
        path.name for path in source.iterdir() if path.suffix in (".pth", ".safetensors")
    )
    assert names
    for name in names:
        before, after = open_tensors(source / name), open_tensors(tmp_path / "back" / name)
        assert before.keys() - after.keys() <= {"rope.freqs"} and after.keys() <= before.keys()
        for key, tensor in after.items():
            assert (tensor.shape, tensor.dtype) == (before[key].shape, before[key].dtype)
            assert tensor.read().tobytes() == before[key].read().tobytes(), key
    vq_before, vq_after = (
        open_tensors(place / "vqgan.ckpt")
        for place in (source.parent / "tokenizer", tmp_path / "back" / "tokenizer")
    )
    assert all(
        vq_after[key].read().tobytes() == vq_before[key].read().tobytes() for key in vq_after
    )


@pytest.mark.slow
def test_killed_conversion_goes_on_where_it_was(release, convert, tmp_path, monkeypatch):
    """Died while writing the third group; the second run reads only what is left; same checkpoint as in one go."""
    monkeypatch.setattr(to_checkpoint, "GROUP_BYTES", 2**20)
    source = release("meta")
    convert(source, tmp_path / "whole")
    real, calls = model_writer.ModelWriter.write, []

    class Killed(BaseException):
        pass

    def dies(self, group):
        calls.append(sorted(group))
        if len(calls) == 3:
            raise Killed
        real(self, group)

    monkeypatch.setattr(model_writer.ModelWriter, "write", dies)
    with pytest.raises(Killed):
        convert(source, tmp_path / "killed")
    assert not (tmp_path / "killed").exists()
    first = {name for group in calls[:1] for name in group}
    convert(source, tmp_path / "killed")
    rest = {name for group in calls[3:] for name in group}
    assert not first & rest
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.fixture
def source(release, convert, tmp_path, monkeypatch) -> Path:
    """Meta's release, whose conversion to `tmp_path / "model"` died before the end."""
    source = release("meta")
    with monkeypatch.context() as patch:
        patch.setattr(model_writer.ModelWriter, "finish", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(source, tmp_path / "model")
    return source


def test_unfinished_work_of_another_source_is_refused(source, convert, tmp_path):
    """Options count as well."""
    with pytest.raises(ValueError, match="unfinished conversion of something else"):
        convert(source, tmp_path / "model", "--zero-code-logits")
    convert(source, tmp_path / "model")


def test_zero_code_logits_zeroes_the_heads_rows_of_codes_alone(release, convert, tmp_path):
    source = release("hf")
    convert(source, tmp_path / "model", "--zero-code-logits")
    head = open_checkpoint(tmp_path / "model").leaves["transformer/head/table"].read()
    before = open_weights(source).leaves["transformer/head/table"].read()
    codes = np.zeros(len(head), bool)
    codes[4:8196] = True
    assert not head[codes].any() and before[codes].any()
    np.testing.assert_array_equal(head[~codes], before[~codes])


def test_dtype_casts_the_transformer(release, convert, tmp_path):
    convert(release("hf"), tmp_path / "model", "--dtype", "float32")
    loaded = load_model(tmp_path / "model")
    assert loaded.params["transformer"]["layers"]["00"]["q"].dtype == np.float32
    assert (
        loaded.config.transformer.param_dtype
        == loaded.config.transformer.compute_dtype
        == "float32"
    )


@pytest.mark.slow
def test_inspect_says_what_a_folder_is_and_digests_agree(release, convert, tmp_path):
    """Meta's files and the checkpoint made of them have the same digests."""
    source = release("meta")
    convert(source, tmp_path / "model")
    of_files, of_checkpoint = (convert("inspect", path) for path in (source, tmp_path / "model"))
    assert "layout       meta" in of_files and "layout       lumina_jax" in of_checkpoint
    for text in (of_files, of_checkpoint):
        digests = [line.split()[-1] for line in text.splitlines() if "parameters in" in line]
        assert digests == [digest(tmp_path / "model", part) for part in ("transformer", "vqgan")]
    listed = convert("inspect", tmp_path / "model", "--every-array")
    assert "transformer/layers/01/k_norm/bias" in listed


def test_verify_names_what_differs(release, convert, tmp_path, capsys):
    source = release("hf")
    convert(source, tmp_path / "model")
    assert "the same weights" in convert("verify", source, tmp_path / "model")
    convert(source, tmp_path / "other", "--zero-code-logits")
    with pytest.raises(SystemExit, match="1"):
        convert("verify", tmp_path / "model", tmp_path / "other")
    printed = capsys.readouterr()
    assert "transformer/head/table" in printed.out and "numbers differ" in printed.out
    assert "1 differences" in printed.err


def test_names_tell_the_trained_size(release, tmp_path):
    folder = release("hf")
    named = folder.with_name("Lumina-mGPT-7B-1024")
    folder.rename(named)
    config = open_weights(named).config
    assert config.target_px == 1024 and config.max_tokens >= 4228


def test_names_tell_chameleons_and_the_hubs_cache(release):
    """Files of Lumina-mGPT's layout that never saw size tokens; a snapshot of the hub's cache."""
    folder = release("hf")
    base = folder.rename(folder.with_name("Chameleon_7B_mGPT"))
    assert open_weights(base).config.image_layout == "chameleon"
    snapshot = folder.with_name("models--Alpha-VLLM--Lumina-mGPT-7B-768") / "snapshots" / "0a1b"
    snapshot.parent.mkdir(parents=True)
    base.rename(snapshot)
    config = open_weights(
        snapshot,
        SourceOptions(
            tokenizer=str(folder.parent / "tokenizer/text_tokenizer.json"),
            vqgan=str(folder.parent / "tokenizer"),
        ),
    ).config
    assert (config.image_layout, config.target_px) == ("uni_rep", 768)


def test_inspect_and_verify_do_without_tokenizer_and_vqgan(release, convert, tmp_path):
    """A release as it is downloaded."""
    folder = release("hf")
    convert(folder, tmp_path / "model")
    (folder.parent / "tokenizer").rename(folder.parent / "elsewhere")
    assert "none found" in convert("inspect", folder)
    assert "the same weights: transformer, " in convert("verify", folder, tmp_path / "model")


def test_source_may_be_the_folder_one_stands_in(release, convert, tmp_path, monkeypatch):
    monkeypatch.chdir(release("meta"))
    assert "tokenizer/text_tokenizer.json" in convert(".", tmp_path / "model")


@pytest.mark.parametrize("moment", ["begun", "published"])
def test_kill_at_either_end_can_be_repeated(release, convert, tmp_path, monkeypatch, moment):
    """Before anything is noted, and when the folder has its name but not yet lost its note."""
    source, unfinished = release("meta"), tmp_path / "model.unfinished"
    if moment == "begun":
        unfinished.mkdir()
    else:
        with monkeypatch.context() as patch:
            patch.setattr(model_writer, "publish", lambda *a: 1 / 0)
            with pytest.raises(ValueError, match="writing failed"):
                convert(source, tmp_path / "model")
        assert (unfinished / "config.json").exists()
    convert(source, tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.json",
        "params",
        "text_tokenizer.json",
    ]


def test_other_companions_are_another_source(source, convert, tmp_path):
    """A VQGAN exchanged between a kill and its resumption would be mixed with the one before."""
    vqgan = source.parent / "tokenizer" / "vqgan.ckpt"
    vqgan.write_bytes(bytes(vqgan.read_bytes()))
    os.utime(vqgan, (1, 1))
    with pytest.raises(ValueError, match="something else"):
        convert(source, tmp_path / "model")


def test_release_root_stands_for_its_only_model(release):
    folder = release("meta")
    (folder.parent / "models").mkdir()
    shutil.move(folder, folder.parent / "models" / "7b")
    assert open_weights(folder.parent).layout == "meta"


def test_settings_of_ours_survive_a_foreign_layout(tiny_34b_checkpoint, convert, tmp_path):
    """Image layout and trained size have no field in params.json."""
    folder = tmp_path / "changed"
    shutil.copytree(tiny_34b_checkpoint, folder)
    content = json.loads((folder / "config.json").read_text())
    content["model"] |= {"image_layout": "uni_rep", "target_px": 768, "max_tokens": 5000}
    content["extra"] = {"sample": {"guidance": 3.0}}
    (folder / "config.json").write_text(json.dumps(content))
    convert(folder, tmp_path / "meta", "--to", "meta")
    weights = open_weights(tmp_path / "meta")
    assert (weights.config.image_layout, weights.config.target_px) == ("uni_rep", 768)
    assert weights.config.max_tokens == 5000 and weights.notes == {"sample": {"guidance": 3.0}}
