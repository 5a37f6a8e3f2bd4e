"""ObjectClient: the objects of one bucket by key, by way of obstore. Blocks; thread-safe.

Every method raises:

    StoreUnreachable     no answer in time, an answer cut short, an error of the store: what is stored there is
                         unharmed, and whether a write took place is not known
    StoreRefused         wrong credentials, no permission, no such bucket: a person has to help
    ObjectCold           reads: the object is in an archive class (`archive_classes`)
    ObjectMissing        there is no such object
    ObjectExists         `create` only
    ObjectWrong          an object is longer than it may be, or ends too early

Trust no length that the store claims: `get` has a limit. The only conditional write is `create` (If-None-Match: *),
since stores differ in If-Match. After StoreUnreachable, `create` may have taken place: read the key back, and compare.

obstore is loaded with the first client: it brings 16 MB of code and a pool of threads.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from engine import log
from engine.errors import (
    ConfigError,
    EngineError,
    ObjectCold,
    ObjectExists,
    ObjectMissing,
    ObjectWrong,
    StoreRefused,
    StoreUnreachable,
)
from engine.objects import credentials
from engine.objects.settings import ObjectStore

if TYPE_CHECKING:
    from typing_extensions import Buffer

logger = log.get("objects")

SMALL_BYTES_MAX = 1 << 20
"""The longest object that `get` reads unless it is told otherwise."""
UPLOADS_AT_ONCE = 4
"""Parts of one upload on their way: more make a store in the house no faster."""
BACKOFF_S = 0.1
BACKOFF_S_MAX = 2.0
_LIST_PAGE = 1000
_COLD = "InvalidObjectState"
"""The code with which S3 refuses to read an object that has to be recalled."""


class Head(NamedTuple):
    """An object without its bytes."""

    key: str
    size: int
    modified: datetime


class Objects(Protocol):
    """Objects by key: a bucket (`ObjectClient`), or one whose objects are encrypted here (`encrypted_objects`)."""

    def put(self, key: str, data: Buffer) -> None:
        """Writes an object, whether there is one or not."""

    def create(self, key: str, data: Buffer) -> None:
        """Writes an object. Raises ObjectExists if there is one."""

    def put_pieces(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        """Writes a large object in parts; nobody sees it before it is whole. `size`: of all pieces."""

    def get(self, key: str, length_max: int = SMALL_BYTES_MAX) -> bytes:
        """A whole object. Raises ObjectWrong if it is longer than that."""

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """Bytes of an object. Raises ObjectWrong if it ends before `end`."""

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several ranges, in parallel."""

    def head(self, key: str) -> Head:
        """An object's size and time."""

    def heads(self, prefix: str, after: str = "") -> Iterator[Head]:
        """The objects below a folder, in the order of their keys. A store may not list what was written just now."""

    def folders(self) -> list[str]:
        """The names of the folders at the top."""

    def delete(self, keys: Sequence[str]) -> None:
        """Removes objects; no error for those that are not there."""


class ObjectClient:
    """Objects of one bucket."""

    def __init__(self, settings: ObjectStore) -> None:
        """Makes no request. Raises ConfigError."""
        self.url = settings.url.rstrip("/")
        self.settings = settings
        self._part_bytes = settings.part_bytes
        try:
            self._obstore = importlib.import_module("obstore")
            self._errors = importlib.import_module("obstore.exceptions")
        except ImportError as error:
            raise ConfigError("[object_store] needs the package obstore: pip install obstore") from error
        self.store: Any = self._open(settings)

    def _open(self, settings: ObjectStore) -> Any:
        stores = importlib.import_module("obstore.store")
        if self.url.startswith("file://"):
            return stores.from_url(self.url, mkdir=True)
        options: dict[str, Any] = {
            "client_options": {
                "connect_timeout": timedelta(seconds=settings.connect_timeout_s),
                "timeout": timedelta(seconds=settings.timeout_s),
                "allow_http": settings.endpoint.startswith("http://"),
            },
            "retry_config": {
                "max_retries": settings.retries,
                "retry_timeout": timedelta(seconds=settings.timeout_s * (settings.retries + 1)),
                "backoff": {
                    "init_backoff": timedelta(seconds=BACKOFF_S),
                    "max_backoff": timedelta(seconds=BACKOFF_S_MAX),
                    "base": 2,
                },
            },
        }
        config = credentials.read(settings.credentials_file)
        if self.url.startswith("s3://"):
            if settings.endpoint:
                config["endpoint"] = settings.endpoint.rstrip("/")
            if settings.region:
                config["region"] = settings.region
            # The store then compares what it received with a checksum before it answers.
            config["checksum_algorithm"] = "SHA256"
        try:
            return stores.from_url(self.url, config=config, **options)
        except (self._errors.BaseError, ValueError) as error:
            raise ConfigError(f"[object_store] {self.url}: {_sentence(error)}") from error

    def put(self, key: str, data: Buffer) -> None:
        """Writes an object, whether there is one or not."""
        with self._errors_of(key):
            self._obstore.put(self.store, key, _buffer(data), use_multipart=False)

    def create(self, key: str, data: Buffer) -> None:
        """Writes an object. Raises ObjectExists if there is one: perhaps our own, if the answer was lost."""
        with self._errors_of(key):
            self._obstore.put(self.store, key, _buffer(data), mode="create", use_multipart=False)

    def put_pieces(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        """Writes a large object in parts. An upload that is not ended leaves parts behind, which nobody lists."""
        failures: list[BaseException] = []

        def guarded() -> Iterator[bytes]:
            # obstore reports an error of an iterator as one of its own.
            try:
                yield from pieces
            except BaseException as error:
                failures.append(error)
                raise

        try:
            with self._errors_of(key):
                self._obstore.put(
                    self.store,
                    key,
                    guarded(),
                    use_multipart=True,
                    chunk_size=self._part_bytes,
                    max_concurrency=UPLOADS_AT_ONCE,
                )
        except EngineError:
            if failures:
                raise failures[0] from None
            raise

    def get(self, key: str, length_max: int = SMALL_BYTES_MAX) -> bytes:
        """A whole object."""
        with self._errors_of(key):
            answer = self._obstore.get(self.store, key)
            size = int(answer.meta["size"])
            if size > length_max:
                raise ObjectWrong(f"{key} has {size} bytes, and may have {length_max}")
            data = bytes(answer.bytes())
        if len(data) != size:
            raise StoreUnreachable(f"{key}: the answer ended after {len(data)} of {size} bytes")
        return data

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """Bytes of an object."""
        return self.get_ranges(key, [(start, end)])[0]

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several ranges, in parallel."""
        with self._errors_of(key):
            if len(ranges) == 1:
                parts = [self._range(key, *ranges[0])]
            else:
                starts, ends = [start for start, _ in ranges], [end for _, end in ranges]
                parts = self._obstore.get_ranges(self.store, key, starts=starts, ends=ends)
        for (start, end), part in zip(ranges, parts, strict=True):
            if len(part) != end - start:
                raise ObjectWrong(f"{key} ends before byte {end}")
        return [bytes(part) for part in parts]

    def _range(self, key: str, start: int, end: int) -> bytes:
        """As a stream: `obstore.get_range` reads an answer to its end, however long the store makes it."""
        answer = self._obstore.get(self.store, key, options={"range": (start, end)})
        data = bytes(next(iter(answer.stream(min_chunk_size=max(end - start, 1))), b""))
        if len(data) > end - start:
            raise StoreUnreachable(f"{key}: the answer is longer than the {end - start} bytes that were asked for")
        return data

    def head(self, key: str) -> Head:
        """An object's size and time."""
        with self._errors_of(key):
            meta = self._obstore.head(self.store, key)
        return Head(key, int(meta["size"]), meta["last_modified"])

    def heads(self, prefix: str, after: str = "") -> Iterator[Head]:
        """The objects below a folder."""
        with self._errors_of(prefix):
            pages = iter(self._obstore.list(self.store, prefix, offset=after or None, chunk_size=_LIST_PAGE))
        while True:
            with self._errors_of(prefix):
                page = next(pages, None)
            if page is None:
                return
            for meta in sorted(page, key=lambda meta: str(meta["path"])):
                yield Head(str(meta["path"]), int(meta["size"]), meta["last_modified"])

    def folders(self) -> list[str]:
        """The names of the folders at the top."""
        with self._errors_of(""):
            return sorted(map(str, self._obstore.list_with_delimiter(self.store)["common_prefixes"]))

    def delete(self, keys: Sequence[str]) -> None:
        """Removes objects."""
        for key in keys:
            try:
                with self._errors_of(key):
                    self._obstore.delete(self.store, key)
            except ObjectMissing:
                pass

    @contextmanager
    def _errors_of(self, key: str) -> Iterator[None]:
        errors = self._errors
        try:
            yield
        except (errors.NotFoundError, FileNotFoundError) as error:
            raise self._missing(key, error) from error
        except (errors.AlreadyExistsError, errors.PreconditionError) as error:
            raise ObjectExists(f"{key} is there already") from error
        except (errors.PermissionDeniedError, errors.UnauthenticatedError) as error:
            if _COLD in str(error):
                raise ObjectCold(f"{key} is in an archive class of {self.url}") from error
            raise StoreRefused(f"{self.url} refuses {key}: {_sentence(error)}") from error
        except (errors.BaseError, OSError) as error:
            asked = f" for {key}" if key else ""
            raise StoreUnreachable(f"{self.url} does not answer{asked}: {_sentence(error)}") from error

    def _missing(self, key: str, error: Exception) -> EngineError:
        if "NoSuchBucket" in str(error):
            return StoreRefused(f"{self.url}: there is no such bucket")
        return ObjectMissing(f"{self.url} has no {key}")


def _buffer(data: Buffer) -> bytes | memoryview:
    return data if isinstance(data, bytes) else memoryview(data)


_ROLES_ADDRESS = "//169.254.169.254/"
"""Where a machine in a cloud asks for its role, and for credentials with it."""


def _sentence(error: Exception) -> str:
    """The part of an error of obstore that people can use: its first line, without what the store echoes."""
    text = str(error).strip().partition("\n")[0]
    if _ROLES_ADDRESS in text:
        text = f"there are no credentials, neither in a credentials_file nor in the environment nor a role: {text}"
    return text if len(text) <= 300 else f"{text[:300]}…"
