"""Conversion out of a bucket and into one: the same checkpoint, and hardly more read than there is."""

from pathlib import Path

import pytest

from lumina_jax.checkpoint import digest
from lumina_jax.convert.layouts import open_weights


@pytest.fixture
def uploaded(release, fake_gcs):
    """`uploaded("meta")`: the address of a release in the bucket, and its bytes."""

    def put(layout: str) -> tuple[str, int]:
        folder: Path = release(layout)
        files = [path for path in folder.parent.rglob("*") if path.is_file()]
        for path in files:
            fake_gcs.put(f"released/{path.relative_to(folder.parent)}", path.read_bytes())
        return f"{fake_gcs.url}/released/{layout}", sum(path.stat().st_size for path in files)

    return put


@pytest.mark.parametrize("layout", ["meta", "hf"])
def test_from_a_bucket_equals_from_a_disk(
    uploaded, fake_gcs, tiny_34b_checkpoint, convert, tmp_path, layout
):
    """Read by ranges: every byte about once."""
    address, size = uploaded(layout)
    before = fake_gcs.bytes_read
    said = convert(address, tmp_path / "model")
    assert f"tokenizer: {fake_gcs.url}/released/tokenizer/text_tokenizer.json" in said
    assert fake_gcs.bytes_read - before < 1.4 * size
    for part in ("transformer", "vqgan"):
        assert digest(tmp_path / "model", part) == digest(tiny_34b_checkpoint, part)


@pytest.mark.slow
def test_into_a_bucket_and_back(tiny_34b_checkpoint, fake_gcs, convert, tmp_path):
    """Checkpoint -> Lumina-mGPT's layout in a bucket -> a checkpoint in a bucket -> verified."""
    lumina, model = f"{fake_gcs.url}/lumina", f"{fake_gcs.url}/models/again"
    convert(tiny_34b_checkpoint, lumina, "--to", "lumina")
    assert "lumina/model.safetensors" in fake_gcs.names()
    convert(lumina, model)
    assert open_weights(model).layout == "lumina_jax"
    assert "the same weights" in convert("verify", tiny_34b_checkpoint, model)
    assert not list((tmp_path / "cache" / "unfinished").glob("*"))
    with pytest.raises(ValueError, match="exists"):
        convert(lumina, model)
    with pytest.raises(ValueError, match="exists"):
        convert(model, lumina, "--to", "lumina")
