"""Shape profiles: what is read, what is refused by value, and the text that both sides agree on."""

from __future__ import annotations

import pytest

from akidb_tools import shape_profiles as profiles
from akidb_tools.errors import BadInput
from akidb_tools.shape_profiles import Shape


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("64x32", "is not MIN:OPT:MAX"),
        ("1x16:64x32", "is not MIN:OPT:MAX"),
        ("1x16:64x32:512", "is not MIN:OPT:MAX"),
        ("0x16:64x32:512x256", "is not MIN:OPT:MAX"),
        ("1x16:64x32:512x256:1x1", "is not MIN:OPT:MAX"),
        ("2x16:1x32:512x256", "min <= opt <= max"),
        ("1x16:64x512:512x256", "min <= opt <= max"),
        ("1x16:64x32:512x128", "reach the model's 256 tokens"),
    ],
)
def test_a_bad_profile_is_named(text, said):
    with pytest.raises(BadInput, match=said) as raised:
        profiles.parse_all([text], 256, "fp16")
    assert text.rpartition(":")[2] in str(raised.value)


def test_too_many_and_the_same_twice_are_refused():
    with pytest.raises(BadInput, match="5 profiles are too many"):
        profiles.parse_all([f"1x16:1x32:{n}x256" for n in range(1, 6)], 256, "fp16")
    with pytest.raises(BadInput, match="twice"):
        profiles.parse_all(["1x16:1x32:8x256", "1x16:1x32:8x256"], 256, "fp16")


def test_the_widest_comes_last_and_commas_separate():
    found = profiles.parse_all(["1x16:64x32:512x256,1x16:1x32:8x64"], 256, "fp8")
    assert profiles.join(found) == "1x16:1x32:8x64,1x16:64x32:512x256"
    assert found[-1].holds(Shape(512, 256))
    assert not found[-1].holds(Shape(513, 256))
    assert not found[-1].holds(Shape(1, 8))


@pytest.mark.parametrize(
    ("max_tokens", "precision", "expected"),
    [
        (256, "fp16", "1x16:1x32:8x64,1x16:64x32:512x256"),
        (256, "tf32", "1x16:1x32:8x64,1x16:64x32:512x256"),
        (64, "fp32", "1x16:64x32:512x64"),
        (12, "fp16", "1x12:64x12:512x12"),
        # Two engines of such a graph would answer by the batch that a text comes in.
        (256, "int8", "1x16:64x32:512x256"),
        (256, "fp8", "1x16:64x32:512x256"),
    ],
)
def test_defaults_fit_the_model_and_the_precision(max_tokens, precision, expected):
    assert profiles.join(profiles.parse_all([], max_tokens, precision)) == expected


def test_options_name_every_input():
    options = profiles.provider_options(profiles.parse("1x16:64x32:512x256"), ["input_ids", "attention_mask"])
    assert options == {
        "trt_profile_min_shapes": "input_ids:1x16,attention_mask:1x16",
        "trt_profile_opt_shapes": "input_ids:64x32,attention_mask:64x32",
        "trt_profile_max_shapes": "input_ids:512x256,attention_mask:512x256",
    }
