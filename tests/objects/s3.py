"""A small S3 for tests, on a port of 127.0.0.1: objects in memory, conditional creation, ranges, multipart uploads,
lists, and faults by script. It refuses requests whose signature (SigV4) or checksum is wrong.

    with S3() as s3:
        s3.fault(Fault.UNAVAILABLE, match="w/")       the next request whose path contains w/ gets 503
        s3.fault(Fault.ANSWER_LOST, "PUT")            the write takes place, and the connection is closed

It keeps every version of each object in `history`, so that a test sees what was overwritten. With `versioning`
"Enabled" it has `versions` as S3 has them; `is_locked`: it lets none of them go, and `lists_versions` False: it does
not know such requests.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from engine.objects.settings import ObjectStore

ACCESS_KEY, SECRET = "AKTEST", "secret-of-the-test"
BUCKET = "pacs"


class Fault(Enum):
    UNAVAILABLE = "503, nothing done"
    ANSWER_LOST = "done, and the connection closed before the answer"
    TRUNCATED = "half of the body, then the connection closed"
    WRONG_BYTES = "a byte of the body is another one"
    TOO_LONG = "a MiB more than the range that was asked for"
    HELD = "no answer until the test releases it"
    CLOSED = "the connection closed, nothing done"
    STALE_LIST = "a list without the newest object"


@dataclass
class _Script:
    fault: Fault
    method: str
    match: str
    times: int


@dataclass
class _Stored:
    data: bytes
    modified: datetime
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Version:
    key: str
    id: str
    """A later one is greater."""
    data: bytes | None
    """None: a delete marker."""

    @property
    def element(self) -> str:
        return "DeleteMarker" if self.data is None else "Version"


class S3:
    """The server; a context. `url` and `settings` lead a client to it."""

    def __init__(self, *, conditional: bool = True, server: str = "") -> None:
        """`conditional` False: a store that ignores If-None-Match. `server`: the header of that name."""
        self.conditional = conditional
        self.server_name = server
        self.objects: dict[str, _Stored] = {}
        self.history: list[tuple[str, bytes]] = []
        self.uploads: dict[str, tuple[str, datetime, dict[int, bytes]]] = {}
        self.requests: list[tuple[str, str]] = []
        self.lifecycle = ""
        self.versioning = ""
        self.versions: list[_Version] = []
        self.is_locked = False
        self.lists_versions = True
        self.archived: dict[str, str] = {}
        """Key → archive class; an object that is in `recalled` with True can be read."""
        self.recalled: dict[str, bool] = {}
        self.recall_bodies: list[bytes] = []
        self.released = threading.Event()
        self.held = threading.Semaphore(0)
        self.lock = threading.Lock()
        self._scripts: list[_Script] = []
        self._down = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> S3:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def settings(self, folder: Path, **values: Any) -> ObjectStore:
        """Settings for this server; the credentials go to a file in `folder`."""
        file = folder / "credentials"
        file.touch(mode=0o600)
        file.write_text(f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET}\n")
        values = {"retries": 0, "timeout_s": 60.0, "connect_timeout_s": 60.0, **values}
        return ObjectStore(url=f"s3://{BUCKET}/site", endpoint=self.endpoint, credentials_file=file, **values)

    def fault(self, fault: Fault, method: str = "", match: str = "", times: int = 1) -> None:
        """Applies to the next `times` requests of this method whose path and query contain `match`."""
        with self.lock:
            self._scripts.append(_Script(fault, method, match, times))

    def reset(self) -> None:
        """Forgets objects, faults and requests, and is a good store again."""
        with self.lock:
            self.conditional, self.server_name = True, ""
            self.lifecycle = self.versioning = ""
            self.versions.clear()
            self.is_locked, self.lists_versions = False, True
            self.archived.clear()
            self.recalled.clear()
            self.recall_bodies.clear()
            self.uploads.clear()
            self.objects.clear()
            self.history.clear()
            self.requests.clear()
            self._scripts.clear()
            self._down = False

    def go_away(self, away: bool = True) -> None:
        """Closes every connection without an answer, until it comes back."""
        self._down = away

    def take_fault(self, method: str, target: str) -> Fault | None:
        with self.lock:
            self.requests.append((method, target))
            if self._down:
                return Fault.CLOSED
            for script in self._scripts:
                if script.times and script.method in ("", method) and script.match in target:
                    script.times -= 1
                    return script.fault
        return None

    def keys(self, part: str = "") -> list[str]:
        with self.lock:
            return sorted(key for key in self.objects if part in key)

    def store(self, key: str, data: bytes) -> None:
        with self.lock:
            self.objects[key] = _Stored(data, datetime.now(UTC))
            self.history.append((key, data))


def _handler(s3: S3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def version_string(self) -> str:
            return s3.server_name

        def _run(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(length)
            fault = s3.take_fault(self.command, unquote(self.path))
            if fault is Fault.CLOSED:
                self._hang_up()
                return
            if fault is Fault.UNAVAILABLE:
                self._answer(503, _error("SlowDown"))
                return
            if fault is Fault.HELD:
                s3.held.release()
                s3.released.wait()
            reason = _wrong_signature(self.command, self.path, dict(self.headers.items()), body)
            if reason:
                self._answer(403, _error("SignatureDoesNotMatch", reason))
                return
            status, headers, content = _Request(s3, self.command, self.path, self.headers, body, fault).answer()
            if fault is Fault.ANSWER_LOST:
                self._hang_up()
                return
            if fault is Fault.WRONG_BYTES and content:
                content = content[:-1] + bytes([content[-1] ^ 1])
            if fault is Fault.TOO_LONG:
                content += bytes(1 << 20)
            self._answer(status, content, headers, truncated=fault is Fault.TRUNCATED)

        def _hang_up(self) -> None:
            self.close_connection = True
            self.connection.close()

        def _answer(
            self, status: int, content: bytes, headers: dict[str, str] | None = None, *, truncated: bool = False
        ) -> None:
            self.send_response(status)
            headers = {"Content-Length": str(len(content)), **(headers or {})}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: len(content) // 2] if truncated else content)
            if truncated:
                self.wfile.flush()
                self._hang_up()

    for method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
        setattr(Handler, f"do_{method}", Handler._run)
    return Handler


Answer = tuple[int, dict[str, str], bytes]


class _Request:
    def __init__(self, s3: S3, method: str, target: str, headers: Any, body: bytes, fault: Fault | None) -> None:
        self.s3, self.method, self.headers, self.body, self.fault = s3, method, headers, body, fault
        parts = urlsplit(target)
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        _, self.bucket, *rest = unquote(parts.path).split("/", 2)
        self.key = rest[0] if rest else ""

    def answer(self) -> Answer:
        if self.bucket != BUCKET:
            return 404, {}, _error("NoSuchBucket")
        with self.s3.lock:
            return self._of_object() if self.key else self._of_bucket()

    def _of_bucket(self) -> Answer:
        query = self.query
        if "lifecycle" in query:
            content = self.s3.lifecycle
            return (200, {}, content.encode()) if content else (404, {}, _error("NoSuchLifecycleConfiguration"))
        if "versioning" in query:
            state = f"<Status>{self.s3.versioning}</Status>" if self.s3.versioning else ""
            return 200, {}, f"<VersioningConfiguration>{state}</VersioningConfiguration>".encode()
        if "versions" in query:
            return self._versions()
        if "uploads" in query:
            items = "".join(
                f"<Upload><Key>{escape(key)}</Key><UploadId>{number}</UploadId><Initiated>{_iso(begun)}</Initiated>"
                "</Upload>"
                for number, (key, begun, _) in self.s3.uploads.items()
                if key.startswith(query.get("prefix", ""))
            )
            return 200, {}, f"<ListMultipartUploadsResult>{items}</ListMultipartUploadsResult>".encode()
        if "delete" in query:
            keys = [
                unescape(node.text) for node in ElementTree.fromstring(self.body).iter() if node.tag.endswith("Key")
            ]
            for key in keys:
                self.s3.objects.pop(key, None)
                self._keep_version(key, None)
            items = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
            return 200, {}, f"<DeleteResult>{items}</DeleteResult>".encode()
        return self._list()

    def _versions(self) -> Answer:
        s3, query = self.s3, self.query
        if not s3.lists_versions:
            return 501, {}, _error("NotImplemented")
        kept = {key for key, stored in s3.objects.items() if stored} - {each.key for each in s3.versions}
        rows = [*s3.versions, *(_Version(key, "null", s3.objects[key].data) for key in kept)]
        rows = sorted((row for row in rows if row.key.startswith(query["prefix"])), key=lambda row: (row.key, row.id))
        after = query.get("key-marker", ""), query.get("version-id-marker", "")
        rows = [row for row in rows if (row.key, row.id) > after]
        count = int(query.get("max-keys", 1000))
        page, rest = rows[:count], rows[count:]
        latest = {row.key: row.id for row in sorted([*s3.versions, *rows], key=lambda row: row.id)}
        items = "".join(
            f"<{row.element}><Key>{escape(row.key)}</Key><VersionId>{row.id}</VersionId>"
            f"<IsLatest>{'true' if latest[row.key] == row.id else 'false'}</IsLatest></{row.element}>"
            for row in page
        )
        more = ""
        if rest:
            marker = f"<NextVersionIdMarker>{page[-1].id}</NextVersionIdMarker>"
            more = f"<NextKeyMarker>{escape(page[-1].key)}</NextKeyMarker>{marker}"
        cut = f"<IsTruncated>{'true' if rest else 'false'}</IsTruncated>"
        return 200, {}, f"<ListVersionsResult>{cut}{more}{items}</ListVersionsResult>".encode()

    def _list(self) -> Answer:
        query, objects = self.query, self.s3.objects
        after = query.get("continuation-token") or query.get("start-after", "")
        keys = sorted(key for key in objects if key.startswith(query.get("prefix", "")) and key > after)
        if self.fault is Fault.STALE_LIST and keys:
            keys.remove(max(keys, key=lambda key: objects[key].modified))
        folders: list[str] = []
        if delimiter := query.get("delimiter"):
            length = len(query.get("prefix", ""))
            folders = sorted({key[: key.index(delimiter, length) + 1] for key in keys if delimiter in key[length:]})
            keys = [key for key in keys if delimiter not in key[length:]]
        count = min(int(query.get("max-keys", 1000)), 1000)
        page, rest = keys[:count], keys[count:]
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{_iso(objects[key].modified)}</LastModified>"
            f"<Size>{len(objects[key].data)}</Size><ETag>{_etag(objects[key].data)}</ETag></Contents>"
            for key in page
        )
        items += "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if rest else ""
        return (
            200,
            {},
            f"<ListBucketResult><Name>{BUCKET}</Name><Prefix></Prefix><KeyCount>{len(page)}</KeyCount>"
            f"<MaxKeys>{count}</MaxKeys><IsTruncated>{'true' if rest else 'false'}</IsTruncated>{more}{items}"
            "</ListBucketResult>".encode(),
        )

    def _of_object(self) -> Answer:
        method, query = self.method, self.query
        if method in ("GET", "HEAD"):
            return self._get()
        if method == "DELETE":
            if "uploadId" in query:
                self.s3.uploads.pop(query["uploadId"], None)
            elif "versionId" in query:
                return self._delete_version(query["versionId"])
            else:
                self.s3.objects.pop(self.key, None)
                self._keep_version(self.key, None)
            return 204, {}, b""
        if method == "POST" and "restore" in query:
            self.s3.recall_bodies.append(self.body)
            if self.key in self.s3.recalled:
                return 409, {}, _error("RestoreAlreadyInProgress")
            self.s3.recalled[self.key] = False
            return 202, {}, b""
        if method == "POST" and "uploads" in query:
            number = f"upload{len(self.s3.uploads)}-{len(self.s3.requests)}"
            self.s3.uploads[number] = (self.key, datetime.now(UTC), {})
            return 200, {}, f"<R><Bucket>{BUCKET}</Bucket><UploadId>{number}</UploadId></R>".encode()
        if method == "POST":
            _, _, parts = self.s3.uploads.pop(query["uploadId"])
            return self._write(b"".join(parts[number] for number in sorted(parts)), in_body=True)
        if "partNumber" in query:
            self.s3.uploads[query["uploadId"]][2][int(query["partNumber"])] = self.body
            return 200, {"ETag": _etag(self.body)}, b""
        if self.headers.get("if-none-match") == "*" and self.key in self.s3.objects and self.s3.conditional:
            return 412, {}, _error("PreconditionFailed")
        return self._write(self.body)

    def _keep_version(self, key: str, data: bytes | None) -> None:
        if self.s3.versioning == "Enabled":
            self.s3.versions.append(_Version(key, f"v{len(self.s3.requests):08d}", data))

    def _delete_version(self, version_id: str) -> Answer:
        if self.s3.is_locked:
            return 403, {}, _error("AccessDenied")
        self.s3.versions[:] = [row for row in self.s3.versions if (row.key, row.id) != (self.key, version_id)]
        return 204, {}, b""

    def _write(self, data: bytes, *, in_body: bool = False) -> Answer:
        self._keep_version(self.key, data)
        self.s3.objects[self.key] = _Stored(data, datetime.now(UTC))
        self.s3.history.append((self.key, data))
        if in_body:
            return 200, {}, f"<R><Key>{escape(self.key)}</Key><ETag>{_etag(data)}</ETag></R>".encode()
        return 200, {"ETag": _etag(data)}, b""

    def _get(self) -> Answer:
        stored = self.s3.objects.get(self.key)
        if stored is None:
            return 404, {}, _error("NoSuchKey") if self.method == "GET" else b""
        data = stored.data
        headers = {
            "ETag": _etag(data),
            "Last-Modified": stored.modified.strftime("%a, %d %b %Y %H:%M:%S GMT"),
            "Accept-Ranges": "bytes",
        }
        wanted = self.headers.get("range")
        if storage_class := self.s3.archived.get(self.key):
            headers["x-amz-storage-class"] = storage_class
            is_back = self.s3.recalled.get(self.key)
            if is_back is not None:
                headers["x-amz-restore"] = f'ongoing-request="{"false" if is_back else "true"}"'
            if not is_back and self.method == "GET":
                return 403, {}, _error("InvalidObjectState", "The operation is not valid for the object's class")
        if self.method == "HEAD":
            return 200, {**headers, "Content-Length": str(len(data))}, b""
        if not wanted:
            return 200, headers, data
        start, _, last = wanted.removeprefix("bytes=").partition("-")
        if int(start) >= len(data):
            return 416, {"Content-Range": f"bytes */{len(data)}"}, _error("InvalidRange")
        end = min(int(last) + 1 if last else len(data), len(data))
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        return 206, headers, data[int(start) : end]


def _wrong_signature(method: str, target: str, headers: dict[str, str], body: bytes) -> str:
    """Why the request is not the owner's (AWS Signature Version 4); empty: it is."""
    lower = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    parts = urlsplit(target)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "X-Amz-Signature" in given:
        signature, credential = given.pop("X-Amz-Signature"), given["X-Amz-Credential"]
        signed, date, digest = given["X-Amz-SignedHeaders"], given["X-Amz-Date"], "UNSIGNED-PAYLOAD"
    elif lower.get("authorization", "").startswith("AWS4-HMAC-SHA256 "):
        fields = dict(item.strip().split("=", 1) for item in lower["authorization"][17:].split(","))
        signature, credential, signed = fields["Signature"], fields["Credential"], fields["SignedHeaders"]
        date, digest = lower["x-amz-date"], lower["x-amz-content-sha256"]
        if digest != "UNSIGNED-PAYLOAD" and digest != hashlib.sha256(body).hexdigest():
            return "the body is another one"
    else:
        return "not signed"
    checksum = lower.get("x-amz-checksum-sha256")
    if checksum and base64.b64encode(hashlib.sha256(body).digest()).decode() != checksum:
        return "the checksum is another one"
    key_id, day, region, service, _ = credential.split("/")
    if key_id != ACCESS_KEY:
        return "who is that?"
    query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(given.items()))
    lines = "".join(f"{name}:{lower.get(name, '')}\n" for name in signed.split(";"))
    path = quote(unquote(parts.path), safe="/~")
    request = f"{method}\n{path}\n{query}\n{lines}\n{signed}\n{digest}"
    scope = f"{day}/{region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{SECRET}".encode()
    for part in (day, region, service, "aws4_request", text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return "" if hmac.compare_digest(key.hex(), signature) else "the signature is another one"


def unescape(text: str | None) -> str:
    return text or ""


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _error(code: str, message: str = "") -> bytes:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3]:
    """One server a module."""
    with S3() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3) -> S3:
    """The server, empty for each test."""
    s3_server.reset()
    return s3_server
