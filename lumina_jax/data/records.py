"""Pre-tokenised conversations: record i of a source is a pure function of (source, VQGAN, tokenizer, i)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np

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
    shard_name,
    shard_range,
    share,
    write_shard,
)
from lumina_jax.experiment import ScenesSource
from lumina_jax.unirep.conversation import conversation_ids
from lumina_jax.unirep.image_tokens import image_sentence
from lumina_jax.unirep.text import TextTokenizer

RECORDS_PER_SHARD = 2048
CHUNK = 256  # records drawn at a time by one process
ENCODE_BATCH = 32  # images of one size
# the code that decides which tokens a scene becomes
WRITTEN_BY = ("data/recipes.py", "unirep/*.py", "vqgan/*.py")

EncodeBatch = Callable[[np.ndarray], np.ndarray]  # uint8[B,Y,X,3] -> codes [B,P,Q]


class Record(NamedTuple):
    """One conversation, ready to train on."""

    tokens: np.ndarray  # uint16 [S]
    spans: tuple[tuple[int, int], ...]  # [start, stop) of what is predicted
    task: str = ""
    size: tuple[int, int] = (0, 0)  # (width, height) px of the last image
    source: str = ""
    index: int = 0

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
    """A record as bytes, about two a token."""
    content = record._replace(tokens=record.tokens.astype("<u2").tobytes())
    return msgpack.packb(content._asdict())


def unpack_record(packed: bytes) -> Record:
    """The inverse of `pack_record`."""
    content = msgpack.unpackb(packed)
    tokens = np.frombuffer(content["tokens"], "<u2")
    spans = tuple((start, stop) for start, stop in content["spans"])
    return Record(**{**content, "tokens": tokens, "spans": spans, "size": tuple(content["size"])})


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
    finish(folder, source.num_records, {"sizes": sizes})
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


def encode_images(images: list[np.ndarray], encode: EncodeBatch) -> list[np.ndarray]:
    """Codes [P,Q] of each image, encoded in batches of one size filled up to ENCODE_BATCH."""
    by_shape: dict[tuple, list[int]] = {}
    for place, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(place)
    codes: list[Any] = [None] * len(images)
    for places in by_shape.values():
        for start in range(0, len(places), ENCODE_BATCH):
            part = places[start : start + ENCODE_BATCH]
            filled = part + part[-1:] * (ENCODE_BATCH - len(part))
            result = encode(np.stack([images[place] for place in filled]))
            for place, code in zip(part, result, strict=False):
                codes[place] = code
    return codes


def jitted_encoder(model: ModelConfig, vqgan_params: Any) -> EncodeBatch:
    """The VQGAN's encoder on uint8 batches."""
    import jax

    from lumina_jax.vqgan.codec import encode, from_pixels

    run = jax.jit(lambda params, pixels: encode(params, model.vqgan, from_pixels(pixels)))
    return lambda pixels: np.asarray(run(vqgan_params, pixels))
