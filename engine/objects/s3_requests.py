"""Requests to S3 that obstore does not make: lifecycle, versioning, unended uploads, old versions, archive classes.

    GET /BUCKET?lifecycle | ?versioning | ?uploads | ?versions     signed with AWS Signature Version 4
    DELETE /BUCKET/KEY?versionId=ID
    HEAD /BUCKET/KEY    POST /BUCKET/KEY?restore

Where a store does not answer the first three, which are for the checks, its answer counts as not known.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import ssl
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from engine.objects import credentials
from engine.objects.settings import ObjectStore

ANSWER_BYTES_MAX = 1 << 20


class Answer(NamedTuple):
    """What the store says."""

    status: int
    server: str
    """Its Server header."""
    root: ElementTree.Element | None
    """The XML of a success."""
    headers: Mapping[str, str] = MappingProxyType({})
    """Names in lower case."""

    def texts(self, name: str) -> list[str]:
        """The texts of all elements of that name, whatever their namespace."""
        found = self.root.iter() if self.root is not None else ()
        return [node.text or "" for node in found if _local(node) == name]

    def elements(self, name: str) -> list[dict[str, str]]:
        """Each element of that name: the names and texts of all that is in it."""
        found = self.root.iter() if self.root is not None else ()
        return [
            {_local(inner): inner.text or "" for inner in node.iter() if inner is not node}
            for node in found
            if _local(node) == name
        ]


class Credentials(NamedTuple):
    """What a request is signed with."""

    key_id: str
    secret: str
    token: str = ""


def signer(settings: ObjectStore) -> Credentials | None:
    """The credentials of the file or the environment; None: they are the machine's, which only obstore asks for."""
    values = credentials.read(settings.credentials_file)
    if not values and settings.credentials_file is None:
        names = ("access_key_id", "secret_access_key", "session_token")
        values = {name: os.environ.get(f"AWS_{name.upper()}", "") for name in names}
    if not values.get("access_key_id") or not values.get("secret_access_key"):
        return None
    return Credentials(values["access_key_id"], values["secret_access_key"], values.get("session_token", ""))


def ask(
    settings: ObjectStore,
    who: Credentials,
    query: dict[str, str],
    now: datetime | None = None,
    *,
    method: str = "GET",
    key: str = "",
    body: bytes = b"",
) -> Answer:
    """One request to the bucket, or to an object in it. Raises OSError or http.client.HTTPException."""
    bucket = urlsplit(settings.url).netloc
    region = settings.region or os.environ.get("AWS_REGION") or "us-east-1"
    endpoint = urlsplit(settings.endpoint or f"https://s3.{region}.amazonaws.com")
    path = f"/{quote(bucket, safe='')}" + (f"/{quote(key, safe='/~')}" if key else "")
    text = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(query.items()))
    digest = hashlib.sha256(body).hexdigest()
    headers = _signed(who, region, endpoint.netloc, f"{method}\n{path}\n{text}", digest, now or datetime.now(UTC))
    connection: http.client.HTTPConnection
    if endpoint.scheme == "http":
        connection = http.client.HTTPConnection(endpoint.netloc, timeout=settings.timeout_s)
    else:
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(endpoint.netloc, timeout=settings.timeout_s, context=context)
    try:
        connection.request(method, f"{path}?{text}" if text else path, body=body or None, headers=headers)
        response = connection.getresponse()
        content = response.read(ANSWER_BYTES_MAX + 1)
        server = response.getheader("Server") or ""
        about = {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()
    if response.status == http.client.NO_CONTENT or method == "HEAD":
        return Answer(response.status, server, None, about)
    if response.status != http.client.OK or len(content) > ANSWER_BYTES_MAX:
        return Answer(response.status if response.status != http.client.OK else 0, server, None)
    try:
        return Answer(response.status, server, ElementTree.fromstring(content), about)
    except ElementTree.ParseError:
        return Answer(0, server, None)


def _signed(who: Credentials, region: str, host: str, target: str, digest: str, now: datetime) -> dict[str, str]:
    """The headers of a request, with its signature. `target`: method, path and query; `digest`: of the body."""
    moment, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": moment}
    if who.token:
        headers["x-amz-security-token"] = who.token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = f"{target}\n{lines}\n{names}\n{digest}"
    scope = f"{day}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{who.secret}".encode()
    for part in (day, region, "s3", "aws4_request", text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    authorization = f"AWS4-HMAC-SHA256 Credential={who.key_id}/{scope}, SignedHeaders={names}, Signature={key.hex()}"
    return {**headers, "authorization": authorization}


def _local(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2]
