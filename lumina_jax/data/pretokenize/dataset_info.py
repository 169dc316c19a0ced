"""What tells TFDS how to read a folder of records: `tfds.builder_from_directory(folder).as_data_source("train")`."""

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from lumina_jax.data.shards import replace_file, shard_name

SPLIT = "train"
TEMPLATE = "{SHARD_X_OF_Y}.{FILEFORMAT}"  # as `shards.shard_name`
FILES = ("features.json", "metadata.json", "dataset_info.json")  # dataset_info.json last


def features() -> dict[str, Any]:
    """The features of `records.pack_record`."""
    import tensorflow_datasets as tfds

    kinds = tfds.features
    tokens = kinds.Tensor(shape=(None,), dtype=np.uint16, encoding=kinds.Encoding.BYTES)
    return {
        "tokens": tokens,
        "spans": kinds.Tensor(shape=(None, 2), dtype=np.int32),
        **{name: kinds.Text() for name in ("task", "source", "id", "digest")},
        **{name: kinds.Scalar(np.int64) for name in ("width", "height", "index")},
    }


def write_dataset_info(
    folder: Path,
    name: str,
    shard_lengths: list[int],
    num_bytes: int,
    description: str,
    metadata: dict[str, Any],
) -> None:
    """Write TFDS's three JSON files; `metadata` goes into one of them."""
    import tensorflow_datasets as tfds

    name = re.sub(r"\W+", "_", name.lower()).strip("_")
    name = name if name[:1].isalpha() else f"records_{name}"
    with tempfile.TemporaryDirectory() as temporary:
        template = tfds.core.ShardedFileTemplate(
            data_dir=temporary,
            template=TEMPLATE,
            dataset_name=name,
            split=SPLIT,
            filetype_suffix="array_record",
        )
        split = tfds.core.SplitInfo(
            name=SPLIT,
            shard_lengths=shard_lengths,
            num_bytes=num_bytes,
            filename_template=template,
        )
        # it looks for a shard beside what it writes
        (Path(temporary) / shard_name(0, len(shard_lengths))).touch()
        tfds.folder_dataset.write_metadata(
            data_dir=temporary,
            features=features(),
            split_infos=[split],
            filename_template=template,
            version="1.0.0",
            check_data=False,
            description=description,
            metadata=tfds.core.MetadataDict(metadata),
        )
        for file in FILES:
            replace_file(folder / file, (Path(temporary) / file).read_bytes())
