"""Pre-tokenised conversations: record i of a source is a pure function of (source, VQGAN, tokenizer, i).

A stored record is a `tf.train.Example` as TFDS writes it; `data/pretokenize/dataset_info.py` tells TFDS so.
"""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tensorflow_datasets.proto import tf_example_pb2

from lumina_jax.config import ModelConfig
from lumina_jax.data.images import digest_of_code, source_digest, source_sizes
from lumina_jax.data.recipes import Conversation, make_conversation
from lumina_jax.data.shards import (
    default_workers,
    finish,
    folder_to_fill,
    in_order,
    is_complete,
    missing_shards,
    open_shards,
    shard_name,
    shard_range,
    share,
    write_shard,
)
from lumina_jax.data_config import ScenesSource
from lumina_jax.unirep.conversation import conversation_ids
from lumina_jax.unirep.image_tokens import image_sentence
from lumina_jax.unirep.text import TextTokenizer

RECORDS_PER_SHARD = 2048
CHUNK = 256  # records drawn at a time by one process
ENCODE_BATCH = 32  # images of one size
# the code that decides which tokens a scene becomes
WRITTEN_BY = ("data/recipes.py", "data/records.py", "unirep/*.py", "vqgan/*.py")

EncodeBatch = Callable[[np.ndarray], np.ndarray]  # uint8[B,Y,X,3] -> codes [B,P,Q]


class Record(NamedTuple):
    """One conversation, ready to train on."""

    tokens: np.ndarray  # uint16 [S]
    spans: tuple[tuple[int, int], ...]  # [start, stop) of what is predicted
    task: str = ""
    size: tuple[int, int] = (0, 0)  # (width, height) px of the last image
    source: str = ""
    index: int = 0  # of its example in the source
    id: str = ""  # what the source itself calls it

    def labels(self) -> np.ndarray:
        """int32 [S]: the token where it is predicted, -100 elsewhere; not shifted."""
        labels = np.full(len(self.tokens), -100, np.int32)
        for start, stop in self.spans:
            labels[start:stop] = self.tokens[start:stop]
        return labels


def make_record(tokens: np.ndarray, labels: np.ndarray, **fields: Any) -> Record:
    """A record of ids and labels; ValueError when an id does not fit uint16."""
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < 2**16:
        raise ValueError(f"record {fields}: ids {tokens.min()}…{tokens.max()}, want 0…65535")
    predicted = np.concatenate([[0], labels >= 0, [0]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(predicted)).reshape(-1, 2)
    spans = tuple((int(start), int(stop)) for start, stop in edges)
    return Record(tokens.astype(np.uint16), spans, **fields)


def pack_record(record: Record) -> bytes:
    """A record as the bytes of a `tf.train.Example`, about two a token; equal records give equal bytes."""
    tokens, spans = _stored(record.tokens, record.spans)
    texts = {"task": record.task, "source": record.source, "id": record.id}
    width_px, height_px = record.size
    numbers = {"width": width_px, "height": height_px, "index": record.index}
    example = tf_example_pb2.Example()
    features = example.features.feature
    features["tokens"].bytes_list.value.append(tokens)
    features["spans"].int64_list.value.extend(spans.ravel().tolist())
    features["digest"].bytes_list.value.append(_digest(tokens, spans).encode())
    for name, text in texts.items():
        features[name].bytes_list.value.append(text.encode())
    for name, number in numbers.items():
        features[name].int64_list.value.append(number)
    return example.SerializeToString(deterministic=True)


def unpack_record(packed: bytes) -> Record:
    """The inverse of `pack_record`; ValueError for bytes that are no record, and where its digest differs."""
    try:
        features = tf_example_pb2.Example.FromString(packed).features.feature
        tokens, found = (features[name].bytes_list.value[0] for name in ("tokens", "digest"))
        task, source, name = (
            features[key].bytes_list.value[0].decode() for key in ("task", "source", "id")
        )
        width_px, height_px, index = (
            features[key].int64_list.value[0] for key in ("width", "height", "index")
        )
        edges = list(features["spans"].int64_list.value)
    except Exception as error:  # protobuf's are of its own kinds
        raise ValueError(
            f"{len(packed)} bytes that are no record of this version ({error}); write the records again"
        ) from error
    spans = tuple(zip(edges[::2], edges[1::2], strict=True))
    record = Record(
        np.frombuffer(tokens, "<u2"), spans, task, (width_px, height_px), source, index, name
    )
    if _digest(*_stored(record.tokens, spans)) != found.decode():
        raise ValueError(
            f"record {source}#{index}: damaged (its digest differs); write the records again"
        )
    return record


def _stored(tokens: np.ndarray, spans: tuple[tuple[int, int], ...]) -> tuple[bytes, np.ndarray]:
    """Tokens as little-endian uint16, and spans as int32[N,2]."""
    return tokens.astype("<u2", copy=False).tobytes(), np.array(spans, "<i4").reshape(-1, 2)


def _digest(tokens: bytes, spans: np.ndarray) -> str:
    """16 hex digits of what a record teaches."""
    return hashlib.sha256(tokens + spans.tobytes()).hexdigest()[:16]


def ensure_records(
    source: ScenesSource,
    model: ModelConfig,
    vqgan_params: Any,
    tokenizer: TextTokenizer,
    data_dir: str | Path,
    num_workers: int = 0,
) -> Path:
    """The folder of a source's records; tokenises what is missing, with a progress bar.

    Its name holds a digest of everything the records depend on: another VQGAN never meets old records.
    """
    from tqdm import tqdm

    from lumina_jax.checksums import digests_of_leaves

    sizes = source_sizes(source, model.grid)
    codes_of = sorted(digests_of_leaves({"vqgan": vqgan_params}).items())
    code = digest_of_code(*WRITTEN_BY)
    depends = (repr(codes_of), repr(model.vqgan), repr(model.grid), model.image_layout, code)
    digest = source_digest(source, sizes, tokenizer.fingerprint, *depends)
    name = f"{source.name}-{digest}"
    folder = folder_to_fill(data_dir, name)
    if is_complete(folder):
        return share(folder, data_dir, name)
    num_shards = -(-source.num_records // RECORDS_PER_SHARD)
    missing = missing_shards(folder, num_shards)
    chunks = [
        (source, sizes, range(start, min(start + CHUNK, part.stop)))
        for part in (shard_range(shard, num_shards, source.num_records) for shard in missing)
        for start in range(part.start, part.stop, CHUNK)
    ]
    drawn = in_order(draw_conversations, chunks, max(1, default_workers(num_workers) - 1))
    encode = jitted_encoder(model, vqgan_params)
    with tqdm(total=source.num_records, desc=f"tokenising {source.name}", unit="record") as bar:
        todo = sum(len(shard_range(s, num_shards, source.num_records)) for s in missing)
        bar.update(source.num_records - todo)
        for shard in missing:
            left = len(shard_range(shard, num_shards, source.num_records))
            packed: list[bytes] = []
            while len(packed) < left:
                records = tokenise(next(drawn), model, tokenizer, encode)
                packed += map(pack_record, records)
                bar.update(len(records))
            write_shard(folder / shard_name(shard, num_shards), packed)
    drawn.close()
    lengths = [len(unpack_record(packed).tokens) for packed in open_shards(folder)]
    notes = {"sizes": sizes, "tokenizer": tokenizer.fingerprint}
    finish(folder, source.num_records, notes, lengths)
    return share(folder, data_dir, name)


def draw_conversations(
    source: ScenesSource, sizes: list[tuple[int, int]], indices: range
) -> list[tuple[int, Conversation]]:
    """The conversations of some records, images as pixels; runs in a worker process."""
    return [(i, make_conversation(source, sizes[i % len(sizes)], i)) for i in indices]


def tokenise(
    drawn: list[tuple[int, Conversation]],
    model: ModelConfig,
    tokenizer: TextTokenizer,
    encode: EncodeBatch,
) -> list[Record]:
    """Records of drawn conversations; their images are encoded together, size by size."""
    images = [image for _, item in drawn for image in item.images]
    codes = iter(encode_images(images, encode))
    records = []
    for index, item in drawn:
        sentences = {
            number: image_sentence(next(codes), tokenizer.vocab, model.grid, model.image_layout)
            for number in range(len(item.images))
        }
        record = {"conversations": item.turns, "image": list(sentences)}
        tokens, labels = conversation_ids(record, tokenizer, sentences.__getitem__)
        fields = {"task": item.task, "size": item.size, "source": item.source, "index": index}
        records.append(make_record(tokens, labels, **fields))
    return records


def encode_images(
    images: Iterable[np.ndarray], encode: EncodeBatch, batch_size: int = ENCODE_BATCH
) -> list[np.ndarray]:
    """Codes [P,Q] of each image, encoded in batches of one size, of which the last is filled up.

    An image is taken when the ones before it are encoded or wait for others of their size: of each size less than
    `batch_size` are in memory.
    """
    codes: list[Any] = []
    waiting: dict[tuple, list[tuple[int, np.ndarray]]] = {}

    def run(part: list[tuple[int, np.ndarray]]) -> None:
        filled = part + part[-1:] * (batch_size - len(part))
        result = encode(np.stack([image for _, image in filled]))
        for (place, _), code in zip(part, result, strict=False):
            codes[place] = code

    for place, image in enumerate(images):
        codes.append(None)
        part = waiting.setdefault(image.shape, [])
        part.append((place, image))
        if len(part) == batch_size:
            run(waiting.pop(image.shape))
    for part in waiting.values():
        run(part)
    return codes


def jitted_encoder(model: ModelConfig, vqgan_params: Any) -> EncodeBatch:
    """The VQGAN's encoder on uint8 batches, split over the devices of this process where they divide."""
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from lumina_jax.vqgan.codec import encode, from_pixels

    devices = jax.local_devices()
    mesh = jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)
    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    params = jax.device_put(vqgan_params, whole)
    run = jax.jit(lambda params, pixels: encode(params, model.vqgan, from_pixels(pixels)))

    def encode_batch(pixels: np.ndarray) -> np.ndarray:
        place = whole if len(pixels) % len(devices) else split
        return np.asarray(run(params, jax.device_put(pixels, place)))

    return encode_batch
