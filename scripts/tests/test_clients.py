"""Clients that know nothing of AkiDB, unmodified, against the real programs; and the OpenAPI documents against them.

Needs requirements-clients.txt and the debug binaries that `cargo test` builds.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import weed

ROOT = Path(__file__).resolve().parents[2]
BINARIES = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
MODEL = "all-MiniLM-L6-v2"
START_S = 180
# Of schemathesis, a document.
FUZZ_S = 30


def binary(name: str) -> Path:
    path = BINARIES / name
    if not path.is_file():
        pytest.fail(f"{path} is missing: `SQLX_OFFLINE=true cargo build -p {name}` builds it")
    return path


def runtime_library() -> Path:
    import onnxruntime

    return sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))[0]


@contextlib.contextmanager
def running(folder: Path, name: str, arguments: list[str], env: dict[str, str], ready: str) -> Iterator[None]:
    """Runs a program until the block ends; the block begins when `ready` answers 200."""
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        command = [str(binary(name)), *arguments]
        process = subprocess.Popen(command, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        until = time.monotonic() + START_S
        while not answers(ready):
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"{name} did not become ready:\n{log.read_text('utf-8', 'replace')}")
            time.sleep(0.05)
        yield
        assert process.poll() is None, f"{name} ended:\n{log.read_text('utf-8', 'replace')}"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def sidecar(minilm, tmp_path_factory) -> Iterator[str]:
    """The address of a sidecar that has a configuration and a bundle, and no control plane."""
    folder = tmp_path_factory.mktemp("sidecar")
    (port,) = weed.free_ports(1)
    config = f"""
        [server]
        listen = "127.0.0.1:{port}"
        ops_listen = "127.0.0.1:0"
        [storage]
        state_folder = "{folder / "state"}"
        [[embedding.models.available]]
        name = "{MODEL}"
        path = "{minilm}"
    """
    (folder / "config.toml").write_text(config, "utf-8")
    base = f"http://127.0.0.1:{port}"
    env = {"AKIDB_ONNXRUNTIME": str(runtime_library())}
    with running(folder, "akidb-sidecar", ["--config", str(folder / "config.toml")], env, f"{base}/readyz"):
        yield base


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory) -> Iterator[tuple[str, str]]:
    """The address of a control plane and the token of its administrator."""
    folder = tmp_path_factory.mktemp("control-plane")
    rest, grpc = weed.free_ports(2)
    base, data = f"http://127.0.0.1:{rest}", folder / "data"
    env = {
        "AKIDB_CP_DATA_DIR": str(data),
        "AKIDB_CP_LISTEN_REST": f"127.0.0.1:{rest}",
        "AKIDB_CP_LISTEN_GRPC": f"127.0.0.1:{grpc}",
    }
    with running(folder, "akidb-control-plane", ["serve"], env, f"{base}/readyz"):
        yield base, (data / "admin-token").read_text("utf-8").strip()


def check(vectors, golden: dict) -> None:
    """Compares vectors with those of sentence-transformers, one a text of `golden`."""
    found, expected = np.asarray(vectors, dtype=np.float64), np.asarray(golden["vectors"], dtype=np.float64)
    assert found.shape == expected.shape
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() >= 0.9999, cosine


@pytest.fixture
def openai_client(sidecar):
    from openai import OpenAI

    return OpenAI(base_url=f"{sidecar}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("more", [{}, {"encoding_format": "float"}, {"user": "someone"}])
def test_openai(openai_client, golden, more):
    answer = openai_client.embeddings.create(model=MODEL, input=golden["texts"], **more)
    check([it.embedding for it in answer.data], golden)
    assert (answer.model, [it.index for it in answer.data]) == (MODEL, list(range(len(golden["texts"]))))
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > len(golden["texts"])


def test_openai_token_ids(openai_client, golden, minilm):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    ids = [tokenizer.encode(text).ids for text in golden["texts"]]
    check([it.embedding for it in openai_client.embeddings.create(model=MODEL, input=ids).data], golden)


def test_openai_models_dimensions_and_errors(openai_client):
    import openai

    assert [it.id for it in openai_client.models.list()] == [MODEL]
    assert openai_client.models.retrieve(MODEL).id == MODEL
    assert len(openai_client.embeddings.create(model=MODEL, input="a", dimensions=64).data[0].embedding) == 64
    with pytest.raises(openai.NotFoundError) as unknown:
        openai_client.embeddings.create(model="text-embedding-3-small", input="a")
    error = unknown.value
    assert (error.code, error.type, error.param) == ("model_not_found", "invalid_request_error", "model")
    with pytest.raises(openai.UnprocessableEntityError, match="not in the vocabulary"):
        openai_client.embeddings.create(model=MODEL, input=[100_000])


@pytest.mark.parametrize("path", ["", "/embed"])
def test_huggingface_hub(sidecar, golden, path):
    from huggingface_hub import InferenceClient

    client = InferenceClient(model=f"{sidecar}{path}")
    check(client.feature_extraction(golden["texts"], normalize=True, truncate=True), golden)
    check([client.feature_extraction(text)[0] for text in golden["texts"] if len(text) < 500], short(golden))


def short(golden: dict) -> dict:
    """Those that need no cut: TEI's `truncate` is false unless given."""
    kept = [it for it in zip(golden["texts"], golden["vectors"], strict=True) if len(it[0]) < 500]
    return {"texts": [text for text, _ in kept], "vectors": [vector for _, vector in kept]}


def test_huggingface_hub_error(sidecar):
    from huggingface_hub import InferenceClient
    from huggingface_hub.errors import HfHubHTTPError

    with pytest.raises(HfHubHTTPError) as long:
        InferenceClient(model=f"{sidecar}/embed").feature_extraction("word " * 1000)
    assert long.value.response.status_code == 413
    assert long.value.response.json()["error_type"] == "Validation"


def test_langchain(sidecar, golden):
    from langchain_openai import OpenAIEmbeddings

    # Its default would send the ids of another tokenizer, and fetch that from the network.
    base = f"{sidecar}/v1"
    embeddings = OpenAIEmbeddings(model=MODEL, base_url=base, api_key="none", check_embedding_ctx_length=False)
    check(embeddings.embed_documents(golden["texts"]), golden)
    check([embeddings.embed_query(text) for text in golden["texts"]], golden)


CONFIG = """
# A deadline of the client's own choosing may pass: that 504 is in the document, and no failure of the server.
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 504]
"""


def fuzz(folder: Path, base: str, headers: dict[str, str]) -> None:
    """Sends what a service's OpenAPI document allows and forbids: no 5xx, and no answer that it does not have."""
    (folder / "schemathesis.toml").write_text(CONFIG, "utf-8")
    checks = (
        "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
        "response_schema_conformance,unsupported_method,allow_header_conformance"
    )
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis as run; run()"]
    command += ["--config-file", str(folder / "schemathesis.toml"), "run"]
    command += [f"{base}/api/openapi.json", "--checks", checks, "--max-time", str(FUZZ_S), "--seed", "1"]
    command += ["--continue-on-failure", "--no-color", "--suppress-health-check", "all", "--warnings", "off"]
    command += [it for name, value in headers.items() for it in ("--header", f"{name}: {value}")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FUZZ_S + 300, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-4_000:]
    assert " passed" in done.stdout, done.stdout


def test_the_sidecars_document(sidecar, tmp_path):
    fuzz(tmp_path, sidecar, {})
    assert answers(f"{sidecar}/readyz")


def test_the_control_planes_document(control_plane, tmp_path):
    base, token = control_plane
    headers = {"Authorization": f"Bearer {token}"}
    # Else every answer would be a 401, and the rest prove nothing.
    with urllib.request.urlopen(urllib.request.Request(f"{base}/api/v1/models", headers=headers), timeout=5) as answer:
        assert answer.status == 200
    fuzz(tmp_path, base, headers)
    assert answers(f"{base}/readyz")
