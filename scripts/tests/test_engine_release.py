"""A finished engine bundle goes into a real control plane's catalog, by upload, by its place and through a real S3.

Needs the debug binaries that `cargo test` builds.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from pathlib import Path

import boto3
import pytest
import recorded_engine
import weed
from recorded_engine import H100, job, write
from test_clients import BINARIES, running

import build_tensorrt_engine
from akidb_tools import bundle, catalog, engine_release
from akidb_tools.engine_bundle import Facts
from akidb_tools.errors import BadInput, ToolError


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A control plane whose S3 is a real server; what its clients read of the environment."""
    folder = tmp_path_factory.mktemp("plane")
    rest, grpc = weed.free_ports(2)
    with weed.running(tmp_path_factory.mktemp("weed")) as store:
        env = {
            "AKIDB_CP_DATA_DIR": str(folder / "data"),
            "AKIDB_CP_LISTEN_REST": f"127.0.0.1:{rest}",
            "AKIDB_CP_LISTEN_GRPC": f"127.0.0.1:{grpc}",
            **store.environment(),
        }
        base = f"http://127.0.0.1:{rest}"
        with running(folder, "akidb-control-plane", ["serve"], env, f"{base}/readyz"):
            yield {
                "AKIDB_SERVER": base,
                "AKIDB_TOKEN_FILE": str(folder / "data/admin-token"),
                "PATH": f"{BINARIES}:{os.environ['PATH']}",
                **store.environment(),
            }


@pytest.fixture
def named(plane, monkeypatch, tmp_path):
    """The control plane is named in the environment, the way a user does it; away from this checkout's own programs."""
    for key, value in plane.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("AKIDB_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    client = boto3.client("s3", region_name="us-east-1")
    if "models" not in [it["Name"] for it in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket="models")


@pytest.fixture
def tiny_there(named, tiny_bundle):
    """The tiny fp32 bundle is catalogued in a version with a name of its own."""
    if catalog.by_environment().home("tiny", {bundle.folder_digest(tiny_bundle)}) is None:
        akidb("models", "import", str(tiny_bundle), "--version", "2026-11")
    return tiny_bundle


def akidb(*arguments):
    done = subprocess.run(["akidb", "--json", *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def shown(name):
    """The newest live artifact of a variant, with its version."""
    (model,) = [akidb("models", "show", "tiny")]
    found = [
        (v["name"], it) for v in model["versions"] for w in v["variants"] if w["name"] == name for it in w["artifacts"]
    ]
    return max((it for it in found if it[1]["state"] != "retired"), key=lambda it: it[1]["created_at"])


def snapshot():
    token = Path(os.environ["AKIDB_TOKEN_FILE"]).read_text("utf-8").strip()
    headers = {"authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{os.environ['AKIDB_SERVER']}/api/v1/snapshot", headers=headers)
    with urllib.request.urlopen(request) as answer:
        variants = json.load(answer)["models"][0]["variants"]
    return {it["name"]: it["artifacts"] for it in variants}


def release(made):
    said = []
    return engine_release.prepare(made, said.append).run(write(made)), said


def test_an_engine_is_published_and_ready_with_lineage_and_evaluation(tiny_there, tmp_path):
    made = job(tiny_there, tmp_path / "tiny-trt", "fp16", publish="s3://models/engines")
    done, said = release(made)
    version, artifact = shown("tensorrt-fp16")
    assert (version, done["catalogued"], artifact["state"]) == ("2026-11", "2026-11", "ready"), said
    assert artifact["lineage"]["parent_digest"] == bundle.folder_digest(tiny_there)
    report = artifact["evaluations"][0]
    assert report["verdict"] == "passed" and report["report"]["recall_at_10"] == 0.9975
    assert report["report"]["batch_invariance"] == 0.9999938
    target = {"provider": "tensorrt", "compute_capability": "9.0", "tensorrt_version": "10.6.0"}
    (served,) = snapshot()["tensorrt-fp16"]
    assert target.items() <= served["target"].items()
    assert done["published"].startswith("s3://models/engines/tiny/tensorrt-fp16/")
    assert {f["uri"] for f in served["files"]} == {f"{done['published']}/{f['file']['path']}" for f in served["files"]}
    again, said = release(made)
    assert again == done and any("already" in line for line in said)


@pytest.mark.parametrize("how", ["upload", "in-place"])
def test_a_folder_is_registered_as_it_lies(tiny_there, tmp_path, how):
    facts = Facts("8.9" if how == "upload" else "12.0", "10.6.0")
    made = job(tiny_there, tmp_path / "tiny-trt", "fp16", register=how)
    ready = engine_release.prepare(made, print)
    done = ready.run(write(made, facts))
    assert done == {"published": None, "catalogued": "2026-11"}
    version, artifact = shown("tensorrt-fp16")
    assert (version, artifact["state"]) == ("2026-11", "ready")
    assert artifact["target"]["compute_capability"] == facts.compute_capability
    # The engines of other GPUs stay.
    assert facts.compute_capability in {it["target"]["compute_capability"] for it in snapshot()["tensorrt-fp16"]}


def test_a_rebuilt_engine_takes_the_place_of_the_one_for_the_same_gpu(tiny_there, tmp_path):
    made = job(tiny_there, tmp_path / "tiny-trt", "fp8", register="upload")
    for plan in (b"ftrt one", b"ftrt two"):
        engine_release.prepare(made, print).run(write(made, H100, plan))
    (served,) = snapshot()["tensorrt-fp8"]
    assert served["digest"] == bundle.folder_digest(made.output)


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"mean_cosine": 0.985}, "mean_cosine 0.985 is below its gate 0.99"),
        ({"batch_invariance": 0.985}, "batch_invariance 0.985 is below its gate 0.99"),
    ],
)
def test_a_missed_gate_is_refused_by_the_catalog_with_its_figure(tiny_there, tmp_path, capfd, figures, said):
    variant = f"trt-{next(iter(figures)).replace('_', '-')}"
    made = job(tiny_there, tmp_path / "tiny-trt", "fp8", register="upload", variant=variant)
    ready = engine_release.prepare(made, print)
    plan = f"ftrt {variant}".encode()
    for _ in range(2):
        with pytest.raises(ToolError, match="not in service"):
            ready.run(write(made, H100, plan, **figures))
        assert f"is catalogued and not served: {said}" in capfd.readouterr().err
        assert shown(variant)[1]["state"] == "validated" and variant not in snapshot()
    # The same engine, proven better.
    assert ready.run(write(made, H100, plan))["catalogued"] == "2026-11"
    assert shown(variant)[1]["state"] == "ready" and variant in snapshot()


def test_what_stands_in_the_way_is_said_before_the_work(named, tiny_bundle, tmp_path, monkeypatch):
    other = tmp_path / "other-fp32"
    other.mkdir()
    for file in tiny_bundle.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((other / "manifest.json").read_text("utf-8"))
    manifest["model"]["name"] = "another"
    (other / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    made = job(other, tmp_path / "o", "fp16", register="upload")
    with pytest.raises(BadInput, match=f"is not catalogued: akidb models import {other}"):
        engine_release.prepare(made, print)
    both = job(other, tmp_path / "o", "fp16", register="in-place", publish="s3://models/x")
    with pytest.raises(BadInput, match="catalogued where it is published"):
        engine_release.prepare(both, print)
    monkeypatch.delenv("AKIDB_SERVER")
    with pytest.raises(BadInput, match="no control plane is named; set AKIDB_SERVER"):
        engine_release.prepare(made, print)


def test_the_tool_itself_catalogues_a_graph_and_tells_the_command_where_it_does_not(
    tiny_there, sentences, tmp_path, cli, monkeypatch
):
    given = (
        "--model",
        tiny_there,
        "--precision",
        "fp16",
        "--graph-only",
        "--any-language",
        "--json",
        "--variant",
        "graph",
    )
    given += (
        "--test-dataset",
        sentences,
        "--evaluate",
        "64",
        "--profile",
        "1x16:4x16:8x24",
        "--output",
        tmp_path / "g",
    )
    done = cli(build_tensorrt_engine, *given, "--publish", "s3://models/graphs")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["catalogued"] == "2026-11" and report["published"].startswith("s3://models/graphs/tiny/graph/")
    version, artifact = shown("graph")
    assert (version, artifact["state"], artifact["target"]["provider"]) == ("2026-11", "ready", "portable")
    assert artifact["evaluations"][0]["report"]["batch_invariance"] == report["batch_invariance"] > 0.9999

    monkeypatch.delenv("AKIDB_SERVER")
    told = cli(build_tensorrt_engine, *given, "--force")
    assert told.code == 0 and f"akidb models import {tmp_path / 'g'}" in told.err
    assert json.loads(told.out)["catalogued"] is None


def test_recorded_bundles_are_what_the_tool_reads(tiny_bundle, tmp_path):
    with pytest.raises(BadInput, match="compiled TensorRT engine"):
        made = job(tiny_bundle, tmp_path / "e", "fp8")
        write(made)
        recorded_engine.job(made.output, tmp_path / "f", "fp8")
