"""The options of the command: how a source is read, what becomes of its examples, how the work is done."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SourceOptions:
    """How a source is read, where that is not seen by looking at it."""

    # json, table, folder, tfds, webdataset or pickles; default: found by looking
    kind: str = ""
    # the folder that paths of images are relative to and must stay in; default: that of the file
    root: Path | None = None
    # key, column or feature of the image; default: image, or a dataset's only one
    image_field: str = ""
    # the same of captions, nested features with slashes (captions/text); default: found by looking
    caption_field: str = ""
    # of a TFDS dataset
    split: str = "train"
    # where a TFDS dataset that is given by name lies; default: TFDS's own folder
    tfds_dir: Path | None = None
    # links may lead out of the root, and to folders of images; default: what lies out of it is a bad input
    follow_links: bool = False


@dataclass(frozen=True)
class TokeniseOptions:
    """What becomes of the examples."""

    # whose VQGAN and tokenizer: a folder, or "scenes", the shipped model
    checkpoint: str = "scenes"
    # crops have at most the area of this square; several: a record of each; default: the checkpoint's
    target_px: tuple[int, ...] = ()
    # cut at a random place, as the original does; default: the centre
    random_crop: bool = False
    # of random crops, of captions chosen among several, of prompts without size
    seed: int = 0
    # share of captions whose prompt does not say the image's size, as in the original's later versions; none in
    # layouts without size tokens
    without_size: float = 0.1
    # a longer record is a bad input; default: none is
    max_tokens: int | None = None
    # a larger image is a bad input, and not decoded
    max_pixels: int = 100_000_000
    # a larger file, or member of a tar, is a bad input, and not read
    max_bytes: int = 1_000_000_000
    # what records call their source; default: the name of SRC
    name: str = ""
    # with several sizes each of them gives as many records
    examples_per_shard: int = 2048


@dataclass(frozen=True)
class RunOptions:
    """How the work is done; of it the batch changes records where codes tie, and nothing else does."""

    # more bad inputs end the command with exit code 2, once all good ones are written
    max_bad: int = 0
    # processes that read images; default: one a core
    workers: int = 0
    # images encoded at once; rounded up to a multiple of the local devices
    batch_size: int = 16
    # 2/8: of eight processes the second, which writes every eighth shard; a SLURM array is seen without
    part: str = ""
    # the same by the cluster that jax.distributed finds (TPU pod, SLURM)
    distributed: bool = False
