"""Bundles enter; the same bundles below an S3 prefix leave, each complete or invisible.

Layout: `<prefix>/<model>/<variant>/<first 16 digits of the artifact digest>/` with the bundle's files, the manifest
last: a reader that finds a manifest finds every file it lists. A place is written once and never changed, so an
artifact that is catalogued keeps its files when a newer one is published. What is there with the same digest is
skipped; a large file that broke off goes on with the parts that are missing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import bundle
from .errors import BadInput, ToolError

PART = 16 << 20
DIGEST = "sha256"  # key of the object's metadata
URI = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")


@dataclass(frozen=True)
class Published:
    """Where a bundle is, and how many bytes had to be sent for it."""

    uri: str
    folder: Path
    manifest: dict
    sent: int


class Publisher:
    """Uploads to one prefix. `part` is the size from which a file goes in parts of that size."""

    def __init__(self, uri: str, say: Callable[[str], None], part: int = PART) -> None:
        found = URI.fullmatch(uri)
        if not found:
            raise BadInput(f"{uri!r} is not s3://BUCKET or s3://BUCKET/PREFIX")
        self.bucket, self.prefix = found[1], (found[2] or "").strip("/")
        self._say, self._part = say, part
        self._s3 = _client()

    def check(self) -> None:
        """The bucket can be reached with these keys; asked before hours of work."""
        with self._explained():
            self._s3.head_bucket(Bucket=self.bucket)

    def publish(self, folder: Path) -> Published:
        """Uploads what is missing of a bundle."""
        text = (folder / bundle.MANIFEST).read_bytes()
        manifest = json.loads(text)
        digest = bundle.artifact_digest(manifest["files"])
        place = "/".join([manifest["model"]["name"], manifest["variant"]["name"], digest[:16]])
        base = f"{self.prefix}/{place}" if self.prefix else place
        sent = 0
        with self._explained():
            for entry in manifest["files"]:
                sent += self._file(folder / entry["path"], f"{base}/{entry['path']}", entry["sha256"])
            own = hashlib.sha256(text).hexdigest()
            if not self._there(f"{base}/{bundle.MANIFEST}", len(text), own):
                self._put(f"{base}/{bundle.MANIFEST}", text, own)
                sent += len(text)
        return Published(f"s3://{self.bucket}/{base}", folder, manifest, sent)

    def _file(self, file: Path, key: str, digest: str) -> int:
        """Bytes sent of one file."""
        size = file.stat().st_size
        if self._there(key, size, digest):
            return 0
        if bundle.sha256(file) != digest:
            raise BadInput(f"{file} is not the file that its manifest lists: make the bundle again")
        if size <= self._part:
            self._put(key, file.read_bytes(), digest)
            return size
        return self._in_parts(file, key, digest, size)

    def _there(self, key: str, size: int, digest: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            head = self._s3.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise
        return head["ContentLength"] == size and head["Metadata"].get(DIGEST) == digest

    def _put(self, key: str, body: bytes, digest: str) -> None:
        checksum = base64.b64encode(bytes.fromhex(digest)).decode()
        self._s3.put_object(Bucket=self.bucket, Key=key, Body=body, ChecksumSHA256=checksum, Metadata={DIGEST: digest})

    def _in_parts(self, file: Path, key: str, digest: str, size: int) -> int:
        """Goes on with an upload of the same key where one was begun: its parts are compared, not believed."""
        upload = (
            self._begun(key)
            or self._s3.create_multipart_upload(Bucket=self.bucket, Key=key, Metadata={DIGEST: digest})["UploadId"]
        )
        at = {"Bucket": self.bucket, "Key": key, "UploadId": upload}
        there = {part["PartNumber"]: part for part in self._parts(at)}
        parts, sent, count = [], 0, -(-size // self._part)
        with file.open("rb") as stream:
            for number in range(1, count + 1):
                body = stream.read(self._part)
                tag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
                known = there.get(number)
                if not known or known["Size"] != len(body) or known["ETag"] != tag:
                    tag = self._s3.upload_part(**at, PartNumber=number, Body=body)["ETag"]
                    sent += len(body)
                parts.append({"PartNumber": number, "ETag": tag})
                if number % 16 == 0:
                    self._say(f"    {file.name}: {number} of {count} parts")
        self._s3.complete_multipart_upload(**at, MultipartUpload={"Parts": parts})
        if not self._there(key, size, digest):
            raise ToolError(f"s3://{self.bucket}/{key} is not what was sent; run the same command again")
        return sent

    def _begun(self, key: str) -> str | None:
        pages = self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=key)
        begun = [it for page in pages for it in page.get("Uploads", []) if it["Key"] == key]
        return max(begun, key=lambda it: it["Initiated"])["UploadId"] if begun else None

    def _parts(self, at: dict) -> Iterator[dict]:
        for page in self._s3.get_paginator("list_parts").paginate(**at):
            yield from page.get("Parts", [])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the store said, in one sentence with the way out."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            yield
        except NoCredentialsError as error:
            raise BadInput("no AWS keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)") from error
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status in (401, 403):
                raise BadInput(
                    f"s3://{self.bucket}: the store refused the keys ({code}): check AWS_ACCESS_KEY_ID, "
                    "AWS_SECRET_ACCESS_KEY and what they may do"
                ) from error
            if status == 404:
                raise BadInput(f"s3://{self.bucket} does not exist; create it: aws s3 mb s3://{self.bucket}") from error
            raise ToolError(f"s3://{self.bucket}: {error}; run the same command again, it goes on") from error
        except BotoCoreError as error:
            raise ToolError(f"s3://{self.bucket}: {error}; run the same command again, it goes on") from error


def _client() -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
    """By the usual AWS variables; path-style where AWS_ENDPOINT_URL names a server that is not AWS."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise BadInput(
            "publishing needs boto3: .venv/bin/pip install -r scripts/requirements-publish.txt (`make models` does)"
        ) from error
    session = boto3.session.Session()
    own = Config(retries={"mode": "standard", "max_attempts": 4}, connect_timeout=10)
    client = session.client("s3", config=own, region_name=session.region_name or "us-east-1")
    if client.meta.endpoint_url.endswith("amazonaws.com"):
        return client
    own = own.merge(Config(s3={"addressing_style": "path"}))
    return session.client("s3", config=own, region_name=session.region_name or "us-east-1")
