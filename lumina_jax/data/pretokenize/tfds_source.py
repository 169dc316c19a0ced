"""Any TFDS dataset of images with captions as a source, read off its ArrayRecords without TensorFlow."""

from pathlib import Path
from typing import Any

from lumina_jax.data.pretokenize.examples import (
    BadInput,
    Example,
    Source,
    Where,
    captions_of,
    digest_of,
)
from lumina_jax.data.pretokenize.options import SourceOptions

CAPTION_FIELDS = ("caption", "captions/text", "captions", "text")  # the first that is there


def open_tfds(path: Path, options: SourceOptions) -> Source:
    """A prepared dataset by its folder (that of the version) or name, `name`, `name/config` or `name:1.0.0`.

    Features by their names; one of a sequence of dictionaries as captions/text, as coco_captions has it. Raises
    ValueError of one line where it is not there, or not in ArrayRecord.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        builder = _builder(tfds, path, options)
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        records: Any = builder.as_data_source(options.split, deserialize_method=raw)
        count = len(records)
    except Exception as error:  # TFDS raises many kinds
        reason = " ".join(str(error).split())[:200]
        absent = "" if path.is_dir() else "no such file or folder, and "
        raise ValueError(
            f"{path}: {absent}not read as a TFDS dataset ({reason}); prepare it with file_format='array_record'"
        ) from error
    if not count:
        raise ValueError(f"{path}: split {options.split} is empty")

    def fields_of(index: int) -> Any:
        return tf_example_pb2.Example.FromString(records[index]).features.feature

    image = options.image_field or _image_feature(builder.info.features, tfds.features.Image, path)
    caption = options.caption_field or _caption_feature(sorted(fields_of(0)), path)

    def read(index: int) -> Example:
        where = Where(f"{path}/{options.split}#{index}")
        try:
            fields = fields_of(index)
            images = tuple(fields[image].bytes_list.value)
            captions = [text.decode() for text in fields[caption].bytes_list.value]
        except Exception as error:  # ArrayRecord's and protobuf's own kinds
            raise BadInput(where, f"cannot be read ({error})") from error
        if len(images) != 1:
            raise BadInput(where, f"{len(images)} images in the feature {image!r}, want 1")
        return Example(where, images, captions=captions_of(captions, where), id=str(index))

    info = builder.info
    lengths = info.splits[options.split].shard_lengths
    stated = (info.full_name, options.split, lengths, image, caption)
    return Source("tfds", count, read, digest_of(stated))


def _builder(tfds: Any, path: Path, options: SourceOptions) -> Any:
    if path.is_dir():
        return tfds.builder_from_directory(str(path))
    folder = None if options.tfds_dir is None else str(options.tfds_dir)
    return tfds.builder(str(path), data_dir=folder)


def _image_feature(features: Any, kind: type, path: Path) -> str:
    """The dataset's only feature of images, or the one named "image"."""
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if "image" in found:
        return "image"
    if len(found) != 1:
        raise ValueError(f"{path}: images {found} among {sorted(features)}; choose --image-field")
    return found[0]


def _caption_feature(names: list[str], path: Path) -> str:
    found = [name for name in CAPTION_FIELDS if name in names]
    if not found:
        raise ValueError(f"{path}: no captions among {names}; choose --caption-field")
    return found[0]
