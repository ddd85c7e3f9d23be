"""The lines and exit codes of ab_test_decision.py. The whole way is walked by the system tests."""

from __future__ import annotations

import pytest

import ab_test_decision as it

SENTENCE = "ROLLOUT: canary P95 8ms vs baseline 26ms (69% improvement); error rate 0.02% vs 0.02%"


def experiment(**change: object) -> dict:
    there = {
        "id": "e",
        "canary": {"variant": "tensorrt-fp8"},
        "baseline": {"variant": "fp32"},
        "state": "running",
        "started_at": "2026-01-01T00:00:00Z",
        "share_ppm": 50_000,
    }
    return there | change


def test_the_seeds_lines() -> None:
    lines = it.lines({"sentence": SENTENCE, "reason": "why"}, experiment(state="promoted"), it.GREW)
    assert lines == [
        "✅ ROLLOUT: Canary P95 8ms vs Baseline 26ms (69% improvement)",
        "Error rate unchanged: 0.02% vs 0.02%",
        "Decision: Full rollout approved",
        "Reason: why",
    ]


@pytest.mark.parametrize(
    ("code", "change", "first", "decision"),
    [
        (it.ROLLED_BACK, {"state": "rolled-back"}, "❌ ROLLBACK:", "Rolled back"),
        (it.ROLLED_BACK, {"state": "aborted"}, "❌ ROLLBACK:", "Aborted"),
        (it.GREW, {"share_ppm": 250_000}, "✅ ROLLOUT:", "the share grows to 25 %"),
        (it.INCONCLUSIVE, {}, "⚠️ WAIT:", "Inconclusive, the share stays at 5 %"),
        (it.WAITING, {}, "⏳ WAIT:", "No verdict yet, the share is 5 %"),
    ],
)
def test_each_verdict_has_its_words(code: int, change: dict, first: str, decision: str) -> None:
    sentence = "WAIT: canary P95 9ms vs baseline 8ms (12% regression); error rate 1% vs 0.5%"
    lines = it.lines({"sentence": sentence, "reason": "why"}, experiment(**change), code)
    assert lines[0].startswith(first)
    assert lines[1] == "Error rate changed: 1% vs 0.5%"
    assert lines[2] == f"Decision: {decision}"


def test_before_the_first_look_there_is_nothing_to_say() -> None:
    lines = it.lines({"sentence": None, "reason": "waiting"}, experiment(), it.WAITING)
    assert lines[0] == "⏳ WAIT: no look was taken yet"


@pytest.mark.parametrize(
    ("state", "verdict", "grew", "code"),
    [
        ("promoted", "promote", False, it.GREW),
        ("running", "wait", True, it.GREW),
        ("rolled-back", "roll-back", False, it.ROLLED_BACK),
        ("aborted", None, True, it.ROLLED_BACK),
        ("running", "inconclusive", False, it.INCONCLUSIVE),
        ("paused", None, False, it.WAITING),
    ],
)
def test_each_verdict_has_its_code(state: str, verdict: str | None, grew: bool, code: int) -> None:
    assert it.code_of(state, verdict, grew) == code


def test_the_live_experiment_of_the_pair_is_chosen() -> None:
    over = experiment(id="over", state="promoted", started_at="2026-02-01T00:00:00Z")
    draft = experiment(id="draft", started_at=None)
    other = experiment(id="other", baseline={"variant": "fp16"}, started_at="2026-03-01T00:00:00Z")
    chosen = it.choose([over, experiment(), draft, other], "tensorrt-fp8", "fp32")
    assert chosen is not None
    assert chosen["id"] == "e"
    assert it.choose([over, draft], "tensorrt-fp8", None) == over
    assert it.choose([over], "int8", None) is None


def test_without_a_token_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("AKIDB_TOKEN", raising=False)
    monkeypatch.delenv("AKIDB_TOKEN_FILE", raising=False)
    assert it.main(["--canary", "int8"]) == it.BAD_INPUT
    assert "no token" in capsys.readouterr().err


def test_nobody_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code = it.main(["--canary", "int8", "--token", "t", "--control-plane", "http://127.0.0.1:9"])
    assert code == it.UNREACHABLE
    assert "is the control plane running?" in capsys.readouterr().err
