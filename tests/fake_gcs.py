"""A Cloud Storage server on loopback: the part of its JSON API that gcsfs, tensorstore and Google's client use."""

import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fake_gcs_storage import Refused, Storage

RANGE = re.compile(r"bytes=(\d+)-(\d*)|bytes=-(\d+)")


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one packet for headers and body
    storage: Storage

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def answer(self) -> None:
        """Find what the address asks for, do it, send the result or the error."""
        self.body = self._read_body()
        address = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(address.query).items()}
        with self.storage.lock:
            self.storage.requests.append((self.command, self.path))
        steps = [unquote(step) for step in address.path.strip("/").split("/")]
        try:
            self._route([step for step in steps if step not in ("download", "storage", "v1")])
        except Refused as refused:
            error = {"code": refused.code, "message": str(refused)}
            self._send_json({"error": error}, refused.code)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def _route(self, steps: list[str]) -> None:
        storage, command = self.storage, self.command
        match steps:
            case ["upload", "b", bucket, "o"]:
                self._upload(bucket)
            case ["b", bucket] if command == "GET":
                storage.objects(bucket)
                self._send_json({"kind": "storage#bucket", "name": bucket, "id": bucket})
            case ["b", bucket, "o"] if command == "GET":
                with storage.lock:
                    found = storage.listing(bucket, self.query)
                self._send_json(found)
            case ["b", bucket, "o", name, "rewriteTo" | "copyTo", "b", to_bucket, "o", to_name]:
                content = storage.find(bucket, name).content
                written = storage.write(to_bucket, to_name, content, self.query)
                size = str(len(content))
                done = {"done": True, "objectSize": size, "totalBytesRewritten": size}
                self._send_json(written if steps[4] == "copyTo" else {**done, "resource": written})
            case ["b", bucket, "o", name, "moveTo", "o", to_name]:
                content = storage.find(bucket, name).content
                written = storage.write(bucket, to_name, content, self.query)
                del storage.buckets[bucket][name]
                self._send_json(written)
            case ["b", bucket, "iam", "testPermissions"]:
                storage.objects(bucket)
                allowed = [] if bucket in storage.read_only else [self.query["permissions"]]
                self._send_json({"permissions": allowed})
            case ["b", bucket, "o", name] if command == "GET":
                self._read(bucket, name)
            case ["b", bucket, "o", name] if command == "DELETE":
                with storage.lock:
                    storage.find(bucket, name)
                    storage.check_generation(bucket, name, self.query)
                    del storage.buckets[bucket][name]
                self._send(204, b"")
            case _:
                raise Refused(501, f"the fake server does not know {command} {self.path}")

    def _read(self, bucket: str, name: str) -> None:
        stored = self.storage.find(bucket, name)
        if self.query.get("alt") != "media":
            self._send_json(self.storage.describe(bucket, name))
            return
        if self.query.get("ifGenerationNotMatch") == str(stored.generation):
            raise Refused(304, "not modified")
        self.storage.check_generation(bucket, name, self.query)
        content, total = stored.content, len(stored.content)
        headers = {"x-goog-generation": str(stored.generation), "ETag": f"etag{stored.generation}"}
        found = RANGE.fullmatch(self.headers.get("Range", ""))
        if found is None:
            code, part = 200, content
        else:
            first = int(found[1]) if found[1] else max(0, total - int(found[3]))
            if first >= total:
                raise Refused(416, f"the object has {total} bytes")
            stop = min(total, int(found[2]) + 1) if found[2] else total
            code, part = 206, content[first:stop]
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{total}"
        with self.storage.lock:
            self.storage.reads.append((bucket, name, len(part)))
        self._send(code, part, "application/octet-stream", headers)

    def _upload(self, bucket: str) -> None:
        kind = self.query.get("uploadType")
        if kind == "media":
            name, content = self.query["name"], self.body
        elif kind == "multipart":
            name, content = self._parts()
        elif "upload_id" in self.query:
            self._continue_upload(self.query["upload_id"])
            return
        else:
            self.storage.objects(bucket)
            name = self.query.get("name") or json.loads(self.body)["name"]
            number = str(len(self.storage.uploads))
            self.storage.uploads[number] = (f"{bucket}/{name}", self.query, bytearray())
            host = self.headers["Host"]
            place = f"http://{host}/upload/storage/v1/b/{bucket}/o?upload_id={number}"
            self._send(200, b"", headers={"Location": place})
            return
        self._send_json(self.storage.write(bucket, name, content, self.query))

    def _continue_upload(self, number: str) -> None:
        """One chunk of a resumable upload; the object appears with the last."""
        place, query, collected = self.storage.uploads[number]
        chunk = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", self.headers["Content-Range"])
        if chunk is None:
            raise Refused(400, f"Content-Range {self.headers['Content-Range']}")
        if chunk[1]:
            collected[int(chunk[1]) :] = self.body
        if chunk[3] == "*":
            self._send(308, b"", headers={"Range": f"bytes=0-{len(collected) - 1}"})
            return
        bucket, name = place.split("/", 1)
        self._send_json(self.storage.write(bucket, name, bytes(collected), query))

    def _parts(self) -> tuple[str, bytes]:
        """The name and the content of a multipart upload."""
        boundary = self.headers["Content-Type"].split("boundary=")[1].strip("'\"").encode()
        _, notes, media = self.body.split(b"--" + boundary, 2)
        media = media.rpartition(b"--" + boundary + b"--")[0]
        body = [re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1] for part in (notes, media)]
        return json.loads(body[0])["name"], re.sub(rb"\r?\n\Z", b"", body[1])

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send_json(self, content: Any, code: int = 200) -> None:
        self._send(code, json.dumps(content).encode(), "application/json; charset=UTF-8")

    def _send(
        self,
        code: int,
        body: bytes,
        kind: str = "text/plain",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        if code not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if code not in (204, 304):
            self.wfile.write(body)


class FakeGCS:
    """One test's bucket on the running server."""

    def __init__(self, storage: Storage, host: str, bucket: str):
        self.storage, self.host, self.bucket = storage, host, bucket
        self.url = f"gs://{bucket}"
        storage.buckets[bucket] = {}

    def put(self, name: str, content: bytes) -> None:
        """Store an object."""
        self.storage.write(self.bucket, name, content, {})

    def get(self, name: str) -> bytes:
        """What an object holds; KeyError where there is none."""
        return self.storage.buckets[self.bucket][name].content

    def delete(self, name: str) -> None:
        """Remove an object."""
        del self.storage.buckets[self.bucket][name]

    def names(self) -> list[str]:
        """The names of the bucket's objects, sorted."""
        return sorted(self.storage.buckets[self.bucket])

    def refuse(self, code: int, message: str) -> None:
        """Answer every further request for this bucket with an error."""
        self.storage.refusals[self.bucket] = (code, message)

    @property
    def bytes_read(self) -> int:
        """What was sent of this bucket's objects so far."""
        return sum(size for bucket, _, size in self.storage.reads if bucket == self.bucket)


class Server(ThreadingHTTPServer):
    """A server that says nothing of clients that hang up."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what is not a lost connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def serve() -> tuple[ThreadingHTTPServer, Storage]:
    """A server on a free port of loopback, running in a thread until its `shutdown`."""
    storage = Storage()
    handler = type("BoundHandler", (Handler,), {"storage": storage})
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, storage
