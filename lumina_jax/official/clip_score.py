"""CLIP score (Hessel et al. 2021) of images and their prompts, by transformers' CLIPModel off the user's disk.

Nothing is downloaded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lumina_jax.image_files import open_image, read_metadata
from lumina_jax.official.extras import extra, file_digest, versions
from lumina_jax.official.fid import image_paths
from lumina_jax.serving.image_folder import read_lines

CLIP_WEIGHT = 2.5  # Hessel et al.'s factor


def clip_score(
    folder: str | Path,
    weights: str | Path,
    *,
    batch: int = 32,
    device: str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """The mean cosine of each image and its prompt in a CLIP model, and all that decides it.

    "clip_score" is 100 max(cosine, 0), "clip_s" 2.5 max(cosine, 0) as in Hessel et al. `weights`: a folder that
    transformers' CLIPModel reads, with its tokenizer. Prompts are cut to the model's length; "prompts_cut" counts.
    """
    from tqdm import tqdm

    paths = image_paths(folder)
    prompts = prompts_of(paths)
    torch, clip = extra("torch"), _Clip(Path(weights), device)
    cosines, num_cut = [], 0
    for start in tqdm(range(0, len(paths), batch), unit="batch", disable=not progress):
        images = [open_image(path).convert("RGB") for path in paths[start : start + batch]]
        with torch.no_grad():
            found, cut = clip.cosines(images, prompts[start : start + batch])
        cosines.append(found)
        num_cut += cut
    all_cosines = np.concatenate(cosines)
    positive = np.maximum(all_cosines, 0)
    return {
        "clip_score": float(100 * positive.mean()),
        "clip_s": float(CLIP_WEIGHT * positive.mean()),
        "cosine": float(all_cosines.mean()),
        "num_images": len(paths),
        "prompts_cut": num_cut,
        **clip.settings,
    }


def prompts_of(paths: Sequence[Path]) -> list[str]:
    """The prompt of each image: from a .jsonl file beside it ({"file", "prompt"} a line), else from the PNG itself.

    Raises ValueError of one line for an image without.
    """
    told: dict[Path, str] = {}
    for folder in {path.parent for path in paths}:
        for log in sorted(folder.glob("*.jsonl")):
            lines = read_lines(log)
            told |= {folder / line["file"]: line["prompt"] for line in lines if "prompt" in line}
    prompts = []
    for path in paths:
        prompt = told.get(path) or (read_metadata(path) if path.suffix == ".png" else {}).get(
            "prompt"
        )
        if not prompt:
            raise ValueError(
                f'{path}: no prompt; write {{"file": …, "prompt": …}} lines to images.jsonl beside it'
            )
        prompts.append(prompt)
    return prompts


class _Clip:
    """A CLIP model, its tokenizer and its image processor, off a folder."""

    def __init__(self, folder: Path, device: str):
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder}: no CLIP model there; want a folder with config.json"
            )
        library, self.torch, self.device = extra("transformers"), extra("torch"), device
        here = {"local_files_only": True}
        try:
            self.model = library.CLIPModel.from_pretrained(folder, **here).float().eval().to(device)
            self.tokenizer = library.AutoTokenizer.from_pretrained(folder, **here)
            self.processor = library.AutoImageProcessor.from_pretrained(
                folder, backend="pil", **here
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{folder}: no CLIP model that transformers reads ({reason})"
            ) from error
        self.length = self.model.config.text_config.max_position_embeddings
        self.settings = {
            "model": {"name": folder.name, "sha256": file_digest(folder)},
            "resize": "as the folder's image processor says, by PIL",
            "image_size_px": self.model.config.vision_config.image_size,
            "text_tokens": self.length,
            "versions": versions("transformers", "torch", "numpy", "pillow"),
        }

    def cosines(
        self, images: Sequence[Image.Image], prompts: Sequence[str]
    ) -> tuple[np.ndarray, int]:
        """float64[B] of pairs, and how many prompts were cut."""
        lengths = [len(ids) for ids in self.tokenizer(list(prompts))["input_ids"]]
        words = self.tokenizer(
            list(prompts),
            padding=True,
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        pixels = self.processor(images=list(images), return_tensors="pt")
        found = self.model(
            input_ids=words["input_ids"].to(self.device),
            attention_mask=words["attention_mask"].to(self.device),
            pixel_values=pixels["pixel_values"].to(self.device),
        )
        pair = [found.image_embeds, found.text_embeds]
        first, second = (self.torch.nn.functional.normalize(one.double(), dim=-1) for one in pair)
        return (first * second).sum(-1).cpu().numpy(), sum(n > self.length for n in lengths)
