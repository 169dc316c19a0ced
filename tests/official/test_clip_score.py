"""The CLIP score with a tiny random model of transformers, against the same cosines computed by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumina_jax.image_files import save_png
from lumina_jax.official.clip_score import clip_score, prompts_of

pytestmark = pytest.mark.torch
PROMPTS = ["a red cup", "a bed", "a red red red red red red red red red red bed"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A CLIP of one layer each with a tokenizer of letters, as transformers keeps them."""
    torch, library = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = [*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    sizes["num_attention_heads"] = 2
    ends = {"bos_token_id": len(names) - 2, "eos_token_id": len(names) - 1, "pad_token_id": 0}
    config = library.CLIPConfig(
        text_config={**sizes, **ends, "vocab_size": len(names), "max_position_embeddings": 20},
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    library.CLIPModel(config).save_pretrained(folder)
    library.CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    processor = library.CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three pictures that carry their prompts, as this package's do."""
    rng = np.random.default_rng(0)
    for index, prompt in enumerate(PROMPTS):
        pixels = rng.integers(0, 256, (20, 24 + index, 3), np.uint8)
        save_png(Image.fromarray(pixels), tmp_path / f"{index}.png", {"prompt": prompt})
    return tmp_path


def test_score_equals_cosines_by_hand(weights, images) -> None:
    import torch
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    model = CLIPModel.from_pretrained(weights).eval()
    read, processor = (
        AutoTokenizer.from_pretrained(weights),
        CLIPImageProcessorPil.from_pretrained(weights),
    )
    cosines = []
    for index, prompt in enumerate(PROMPTS):
        words = read([prompt], truncation=True, max_length=20, return_tensors="pt")
        pixels = processor(images=[Image.open(images / f"{index}.png")], return_tensors="pt")
        with torch.no_grad():
            found = model(**words, **pixels)
        cosines.append(float(torch.cosine_similarity(found.image_embeds, found.text_embeds)))
    found = clip_score(images, weights, batch=2, progress=False)
    assert found["cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)
    positive = np.maximum(cosines, 0).mean()
    assert found["clip_score"] == pytest.approx(100 * positive, abs=1e-3)
    assert found["clip_s"] == pytest.approx(2.5 * positive, abs=1e-5)
    assert (found["num_images"], found["prompts_cut"], found["text_tokens"]) == (3, 1, 20)
    assert len(found["model"]["sha256"]) == 64 and found["versions"]["transformers"]


def test_prompts_come_from_lines_beside_the_images(images) -> None:
    paths = sorted(images.glob("*.png"))
    assert prompts_of(paths) == PROMPTS
    (images / "images.jsonl").write_text(json.dumps({"file": "1.png", "prompt": "other"}) + "\n")
    assert prompts_of(paths) == [PROMPTS[0], "other", PROMPTS[2]]
    Image.new("RGB", (8, 8)).save(images / "bare.png")
    with pytest.raises(ValueError, match="bare.png: no prompt; write"):
        prompts_of([*paths, images / "bare.png"])


def test_folder_without_a_model_is_refused_in_one_line(images, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no CLIP model there; want a folder"):
        clip_score(images, tmp_path / "nowhere", progress=False)
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ValueError, match="no CLIP model that transformers reads") as caught:
        clip_score(images, bad, progress=False)
    assert "\n" not in str(caught.value)
