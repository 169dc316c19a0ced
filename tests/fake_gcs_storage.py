"""The objects of a fake Cloud Storage: buckets with generations, listings in pages, and a record of what was read."""

import base64
import hashlib
import itertools
import threading
from typing import Any, NamedTuple

PAGE = 50  # objects in one answer to a listing: small, so that clients must turn pages


class Stored(NamedTuple):
    """One object."""

    content: bytes
    generation: int


class Refused(Exception):
    """An answer with an error code."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


class Storage:
    """The buckets, and what was asked of them."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Stored]] = {}
        self.refusals: dict[str, tuple[int, str]] = {}  # bucket -> what every request gets
        self.read_only: set[str] = set()
        self.reads: list[tuple[str, str, int]] = []  # (bucket, name, bytes sent)
        self.requests: list[tuple[str, str]] = []  # (method, address)
        self.lock = threading.RLock()
        self.uploads: dict[str, tuple[str, dict[str, str], bytearray]] = {}
        self._generations = itertools.count(1)

    def objects(self, bucket: str) -> dict[str, Stored]:
        """The objects of a bucket by name."""
        if bucket in self.refusals:
            raise Refused(*self.refusals[bucket])
        if bucket not in self.buckets:
            raise Refused(404, "The specified bucket does not exist.")
        return self.buckets[bucket]

    def find(self, bucket: str, name: str) -> Stored:
        """One object."""
        objects = self.objects(bucket)
        if name not in objects:
            raise Refused(404, f"No such object: {bucket}/{name}")
        return objects[name]

    def write(self, bucket: str, name: str, content: bytes, query: dict[str, str]) -> dict:
        """Store an object if its generation is the one that `query` asks for."""
        with self.lock:
            objects = self.objects(bucket)
            self.check_generation(bucket, name, query)
            objects[name] = Stored(content, next(self._generations))
            return self.describe(bucket, name)

    def check_generation(self, bucket: str, name: str, query: dict[str, str]) -> None:
        """Refused with 412 unless the object's generation, 0 for none, is the one that `query` asks for."""
        stored = self.objects(bucket).get(name)
        wanted = query.get("ifGenerationMatch")
        if wanted is not None and int(wanted) != (stored.generation if stored else 0):
            raise Refused(412, "At least one of the pre-conditions you specified did not hold.")

    def describe(self, bucket: str, name: str) -> dict:
        """An object's metadata."""
        stored = self.find(bucket, name)
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "generation": str(stored.generation),
            "metageneration": "1",
            "size": str(len(stored.content)),
            "md5Hash": base64.b64encode(hashlib.md5(stored.content).digest()).decode(),
            "etag": f"etag{stored.generation}",
            "contentType": "application/octet-stream",
            "storageClass": "STANDARD",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
        }

    def listing(self, bucket: str, query: dict[str, str]) -> dict:
        """One page of the objects under a prefix, folders folded where a delimiter is given."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        first, stop = query.get("startOffset", ""), query.get("endOffset", "")
        entries: dict[str, bool] = {}  # name -> whether it is a folder
        for name in sorted(self.objects(bucket)):
            if name.startswith(prefix) and name >= first and (not stop or name < stop):
                rest = name[len(prefix) :]
                if delimiter and delimiter in rest:
                    entries[prefix + rest.split(delimiter)[0] + delimiter] = True
                else:
                    entries[name] = False
        after = query.get("pageToken", "")
        left = [item for item in entries.items() if item[0] > after]
        count = min(PAGE, int(query.get("maxResults", PAGE)))
        page = left[:count]
        answer: dict[str, Any] = {"kind": "storage#objects"}
        answer["items"] = [self.describe(bucket, name) for name, folder in page if not folder]
        answer["prefixes"] = [name for name, folder in page if folder]
        if len(left) > count:
            answer["nextPageToken"] = page[-1][0]
        return answer
