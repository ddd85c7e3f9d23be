"""The corpus: cleaned, without near-duplicates, split without overlap, repeatable; logs in every form they come in."""

from __future__ import annotations

import io
import json

import pytest

import make_corpus
from akidb_tools import corpus, corpus_sources
from akidb_tools.corpus_sources import Package

NOUNS = """  1 a licence line that is no data
00001740 03 n 01 thing 0 000 | a separate and self-contained entity; "an entity of its own stood there"
00001930 03 n 01 stone 0 001 @ 00001740 n 0000 | a hard lump of mineral matter that lies about
00002137 03 n 01 pebble 0 001 @ 00001740 n 0000 | a small smooth rounded piece of rock from a beach
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    """One source of 600 different lines, some of them nearly the same."""
    folder = tmp_path / "root" / "texts"
    folder.mkdir(parents=True)
    words = ["amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "jetty", "knoll"]
    words += ["ledge", "marsh", "north", "orbit"]
    lines = [
        " ".join(words[(n * k + n // 15) % 15] for k in (1, 2, 4, 7, 8, 11, 13)) + f" number {n} of {n * n}"
        for n in range(600)
    ]
    near = "the quick brown fox jumps over the lazy dog and then runs far away into the dark green forest"
    lines += [near, f"{near} again", f"{near}!", "----- ===== -----", "\x07\x00"]
    (folder / "lines.txt").write_text("\n".join(lines), "utf-8")

    def read(place):
        yield from (place / "lines.txt").read_text("utf-8").split("\n")

    package = Package("made-up-package", str(folder).lstrip("/"), "*.txt", read)
    missing = Package("not-there-package", "no/such/folder", "*", read)
    monkeypatch.setattr(corpus_sources, "SOURCES", {"lines": package, "absent": missing})


def build(folder, **changes):
    options = {"sources": ("lines",), "calibration": 100, "test": 80, "download": False, **changes}
    return corpus.build(corpus.Options(output=folder, **options), lambda line: None)


def texts_of(folder):
    calibration = (folder / corpus.CALIBRATION).read_text("utf-8").splitlines()
    return calibration, json.loads((folder / corpus.TEST).read_text("utf-8"))["texts"]


def test_sides_never_overlap_and_the_same_seed_repeats(source, tmp_path):
    first, again, other = (build(tmp_path / n, seed=s) for n, s in (("a", 1), ("b", 1), ("c", 2)))
    assert first == again and first["calibration"]["sha256"] != other["calibration"]["sha256"]
    calibration, test = texts_of(tmp_path / "a")
    assert (len(calibration), len(test)) == (100, 80)
    other_calibration, other_test = texts_of(tmp_path / "c")
    assert not set(calibration + other_calibration) & set(test + other_test), "whatever the seed"


def test_near_duplicates_and_rubbish_are_dropped(source, tmp_path):
    build(tmp_path / "all", calibration=1000, test=1000)
    texts = [t for side in texts_of(tmp_path / "all") for t in side]
    assert sum("quick brown fox" in t for t in texts) == 1
    assert not any("=====" in t or "\x07" in t for t in texts)


def test_clean_keeps_one_line_of_normal_form():
    assert corpus.clean("cafe\u0301\n\tau  lait\x00!") == "café au lait !"
    assert corpus.clean("== -- ==") is None and corpus.clean("12") is None


def test_missing_source_names_its_package(source, tmp_path, monkeypatch):
    with pytest.raises(corpus.BadInput, match="apt-get install not-there-package"):
        build(tmp_path / "a", sources=("lines", "absent"))
    report = build(tmp_path / "b", sources=("lines", "absent"), allow_missing=True)
    assert list(report["sources"]) == ["lines"]
    with pytest.raises(corpus.BadInput, match="not-there-package"):
        build(tmp_path / "c", sources=("absent",), allow_missing=True)


def test_wordnet_gives_glosses_examples_and_graded_pairs(tmp_path, monkeypatch):
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text(NOUNS if part == "noun" else "", "utf-8")
    texts = list(corpus_sources.SOURCES["wordnet"].read(tmp_path))
    assert "an entity of its own stood there" in texts and "a separate and self-contained entity" in texts
    senses = corpus_sources.wordnet_senses(tmp_path)
    assert senses["00001930"].parent == "00001740" and senses["00001740"].parent is None
    monkeypatch.setattr(corpus, "in_test", lambda text: True)
    pairs = corpus._pairs(senses, corpus.Options(pairs=30))
    grade = {frozenset((p["a"], p["b"])): p["score"] for p in pairs[::-1]}
    assert grade[frozenset((senses["00001740"].gloss, senses["00001930"].gloss))] == corpus.GRADES["parent"]
    assert grade[frozenset((senses["00002137"].gloss, senses["00001930"].gloss))] == corpus.GRADES["sibling"]


def logged(n):
    return {
        "timestamp": "2026-01-01T00:00:00Z",
        "event": "embed_request",
        "text": f"request text {n} about topic {n * 7}",
    }


@pytest.mark.parametrize("form", ["top", "fields", "kubectl", "plain"])
def test_request_logs(tmp_path, cli, form):
    lines = []
    for n in range(300):
        event = logged(n)
        if form == "fields":
            event = {"level": "INFO", "fields": {"message": "embed_request", "text": event["text"]}}
        prefix = "2026-01-01T00:00:00.1Z stdout F " if form == "kubectl" else ""
        lines.append(event["text"] if form == "plain" else prefix + json.dumps(event))
        if form != "plain":
            lines += [json.dumps({"event": "health", "text": "not a request"}), "plain noise"]
    (tmp_path / "log").write_text("\n".join(lines), "utf-8")
    done = cli(make_corpus, "--from-logs", tmp_path / "log", "--output", tmp_path / "out", "--calibration", 50)
    assert done.code == 0, done.err
    calibration, test = texts_of(tmp_path / "out")
    assert len(calibration) == 50 and test and all(t.startswith("request text") for t in calibration + test)


def test_logs_from_standard_input(tmp_path, cli, monkeypatch):
    data = "\n".join(json.dumps(logged(n)) for n in range(100)).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert cli(make_corpus, "--from-logs", "-", "--output", tmp_path / "out").code == 0


@pytest.mark.parametrize("content", ["", '{"event": "health"}\n', "null\nnull\n"])
def test_logs_without_texts_are_refused(tmp_path, cli, content):
    (tmp_path / "log").write_text(content, "utf-8")
    done = cli(make_corpus, "--from-logs", tmp_path / "log", "--output", tmp_path / "out")
    assert done.code == 2 and "holds no text" in done.err and not (tmp_path / "out").exists()
