"""Bundles go to a real S3 server: layout, what is skipped, an upload that broke off, keys that do not fit."""

from __future__ import annotations

import json
import shutil

import boto3
import pytest
import weed

from akidb_tools import bundle, publish
from akidb_tools.errors import BadInput, ToolError

PART = 5 << 20  # the least that S3 allows


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with weed.running(tmp_path_factory.mktemp("weed")) as running:
        yield running


@pytest.fixture
def s3(server, monkeypatch):
    for key, value in server.environment().items():
        monkeypatch.setenv(key, value)
    client = boto3.client("s3", region_name="us-east-1")
    if "models" not in [it["Name"] for it in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket="models")
    return client


@pytest.fixture
def large(tiny_bundle, tmp_path):
    """The tiny bundle with 12 MiB of weights beside its engine, so that they go in three parts."""
    folder = tmp_path / "large-fp32"
    shutil.copytree(tiny_bundle, folder)
    (folder / "model.onnx.data").write_bytes(bytes(range(256)) * (12 << 12))
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    data = folder / "model.onnx.data"
    entry = {"path": data.name, "role": "engine_data", "bytes": data.stat().st_size, "sha256": bundle.sha256(data)}
    manifest["files"].append(entry)
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return folder


def keys(s3, prefix):
    return [it["Key"] for it in s3.list_objects_v2(Bucket="models", Prefix=prefix).get("Contents", [])]


def test_layout_and_a_second_time(s3, tiny_bundle):
    publisher = publish.Publisher("s3://models/layout/", print)
    done = publisher.publish(tiny_bundle)
    digest = bundle.folder_digest(tiny_bundle)
    assert done.uri == f"s3://models/layout/tiny/fp32/{digest[:16]}" and done.sent > 0
    names = {key.rsplit("/", 1)[1] for key in keys(s3, "layout")}
    assert names == {"manifest.json", "model.onnx", "tokenizer.json", "reference.json"}
    for key in keys(s3, "layout"):
        got = s3.get_object(Bucket="models", Key=key)["Body"].read()
        assert got == (tiny_bundle / key.rsplit("/", 1)[1]).read_bytes(), key
    assert publisher.publish(tiny_bundle).sent == 0


def test_an_upload_that_broke_off_goes_on_and_shows_nothing_before(s3, large, monkeypatch):
    publisher = publish.Publisher("s3://models/broken", print, part=PART)
    upload, calls = publisher._s3.upload_part, []

    def breaks(**part):
        calls.append(part["PartNumber"])
        if part["PartNumber"] == 3:
            raise publish.ToolError("the line is cut")
        return upload(**part)

    monkeypatch.setattr(publisher._s3, "upload_part", breaks)
    with pytest.raises(ToolError, match="cut"):
        publisher.publish(large)
    assert not [key for key in keys(s3, "broken") if key.endswith(("manifest.json", ".data"))]
    again = publish.Publisher("s3://models/broken", print, part=PART)
    sent = again.publish(large)
    assert calls == [1, 2, 3]
    whole = (large / "model.onnx.data").stat().st_size
    assert whole - 2 * PART <= sent.sent < whole, "parts one and two were there"
    (key,) = [key for key in keys(s3, "broken") if key.endswith(".data")]
    assert s3.get_object(Bucket="models", Key=key)["Body"].read() == (large / "model.onnx.data").read_bytes()
    assert not s3.list_multipart_uploads(Bucket="models", Prefix="broken").get("Uploads")


def test_a_spoiled_bundle_stays_here(s3, large):
    (large / "model.onnx.data").write_bytes(b"x" * (large / "model.onnx.data").stat().st_size)
    with pytest.raises(BadInput, match="make the bundle again"):
        publish.Publisher("s3://models/spoiled", print).publish(large)
    assert not [key for key in keys(s3, "spoiled") if key.endswith("manifest.json")]


@pytest.mark.parametrize(
    ("uri", "secret", "said"),
    [
        ("s3://models/x", "wrong", "the store refused the keys"),
        ("s3://no-such-bucket/x", weed.SECRET, "aws s3 mb s3://no-such-bucket"),
        ("http://models/x", weed.SECRET, "is not s3://BUCKET"),
    ],
)
def test_refusals(s3, monkeypatch, *, uri, secret, said):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    with pytest.raises(BadInput, match=said):
        publish.Publisher(uri, print).check()


def test_a_store_that_is_not_there(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ToolError, match="it goes on"):
        publish.Publisher("s3://models/x", print).check()
