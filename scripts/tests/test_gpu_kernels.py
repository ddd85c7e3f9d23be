"""Kernels by name and order, as an H100 ran them, become kinds of layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from akidb_tools import gpu_kernels, gpu_report_kernels, gpu_targets
from akidb_tools.errors import ToolError
from akidb_tools.gpu_kernels import QKV, RUNS, Kernel

RECORDED = Path(__file__).parents[2] / "docs/benchmarks/gpu/search/results.json"
GEMM = "sm90_xmma_gemm_f16f16_f16f16_f16_tn_n_tilesize256x128x64_cgasize1x2x1_execute_segment_k_off_kernel_trt"
INT8 = "sm90_xmma_gemm_i8f16_i8i32_f32_tn_n_tilesize256x128x128_bias_f16_beta0_execute_segment_k_off_kernel_trt"
GELU = "sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64_gelu_beta0_execute_segment_k_off_kernel_trt"
MHA = "_gemm_mha_v2_0x2e69869fe0c5ad977696ba4b926bc2e8"
NORM = "__myl_AddCasMeaSubMulMeaAddSqrDivMulCasMulAdd_0x96394849a9ce283beb4229bcfe60c734_com_vec"
NORM_Q = "__myl_AddCasMeaSubMulMeaAddSqrDivMulCasMulAddMulAddCasMulMinMaxRouCas_0x600f66dc_com_vec"
ERF_Q = "__myl_DivCasErfCasAddMulMulMulAddCasMulMinMaxRouCas_0xb2c9301eec63b48ee515f44c3a380ffd_com_vec"
QUANTIZE = "__myl_ResTraResCasMulMinMaxRouCas_0x3072ff1e8f472d943769ccd77dfe2618_vec"
SOFTMAX = "__myl_MulAddMaxSubExpSumDivMul_0xefa0efdcf8fa0665fa8cbefb183c47a4_vec"
BATCHED = "sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize32x32x8_stage3_warpsize1x2x1_ffma_aligna4_alignc4_kernel_trt"
EMBED = "__myl_CasGatSliResAddCasMeaSubMulMea_0xfa4e3cddd77153844c639d267f125fbc"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (GEMM, "product"),
        (INT8, "product"),
        (GELU, "product"),
        (MHA, "attention"),
        (SOFTMAX, "attention"),
        (NORM, "norm"),
        (NORM_Q, "norm"),
        (ERF_Q, "gelu"),
        (QUANTIZE, "quantize"),
        (EMBED, "embedding"),
        ("Memset (Device)", "memory"),
        ("something_new", "other"),
    ],
)
def test_a_name_alone_says_a_kind(name, kind):
    assert gpu_kernels.alone(name) == kind


def layer(*products):
    return [MHA, products[0], NORM, products[1], products[2], NORM]


def test_products_are_told_by_their_place_between_attentions():
    names = [EMBED, GEMM, *layer(GEMM, GELU, GEMM), INT8, *layer(GEMM, INT8, INT8), GEMM]
    found = gpu_kernels.kinds(names)
    one = ["attention", "attention output", "norm", "up", "down", "norm"]
    # The last product is of no layer: it pools.
    assert found == ["embedding", QKV, *one, QKV, *one, "product"]


def test_query_key_and_value_may_be_three_products():
    names = [*[GEMM] * 3, *layer(GEMM, GELU, GEMM), *[GEMM] * 3, *layer(GEMM, GELU, GEMM)]
    assert gpu_kernels.kinds(names).count(QKV) == 6


def test_attention_of_three_kernels_takes_the_products_beside_its_softmax():
    one = [GEMM, BATCHED, SOFTMAX, BATCHED, GEMM, NORM, GEMM, ERF_Q, GEMM, NORM]
    found = gpu_kernels.kinds([*one, *one])
    half = [QKV, "attention", "attention", "attention", "attention output", "norm", "up", "gelu", "down", "norm"]
    assert found == half * 2


def test_without_attention_a_product_stays_a_product():
    assert gpu_kernels.kinds([GEMM, NORM]) == ["product", "norm"]


def batch(*times):
    return [Kernel(name, us) for name, us in zip([GEMM, *layer(GEMM, GELU, GEMM)], times, strict=True)]


def test_equal_batches_are_averaged_by_kind():
    kernels = [k for n in range(RUNS) for k in batch(10 + n, 20, 5, 1, 30, 40, 1)]
    found = gpu_kernels.summed(gpu_kernels.runs_of(kernels))
    assert found["kinds_by"] == "name and order"
    assert found["by_kind"] == {QKV: 12, "attention": 20, "attention output": 5, "up": 30, "down": 40, "norm": 2}
    assert found["total_us"] == 109 and found["kernels"][0] == {"kernel": GEMM, "kind": "down", "calls": 1, "us": 40}


def test_unequal_batches_keep_their_time_and_lose_the_order():
    kernels = [k for _ in range(RUNS) for k in batch(10, 20, 5, 1, 30, 40, 1)][:-1]
    found = gpu_kernels.summed(gpu_kernels.runs_of(kernels))
    assert found["kinds_by"] == "name alone"
    assert found["by_kind"] == pytest.approx({"product": 85, "attention": 20, "norm": 1.8})
    with pytest.raises(ToolError, match="no kernel"):
        gpu_kernels.summed(gpu_kernels.runs_of([]))


def test_every_long_kernel_that_was_recorded_has_a_kind():
    recorded = json.loads(RECORDED.read_text("utf-8"))["gpu"]["kernels"]
    names = {k["kernel"] for e in recorded for k in e["kernels"] if k["us"] > 10}
    assert len(names) > 40
    assert [name for name in names if gpu_kernels.alone(name) == "other"] == []


def test_the_page_shows_what_a_precision_saves_and_costs_by_kind():
    def entry(precision, up, quantize):
        kinds = {"up": up, "quantize": quantize}
        facts = {"model": "m", "variant": f"tensorrt-{precision}", "precision": precision, "batch": 64, "tokens": 128}
        rows = [{"kernel": GEMM, "kind": "up", "calls": 1, "us": up}]
        sums = {"total_us": up + quantize, "by_kind": kinds, "kinds_by": "name and order", "kernels": rows}
        return {"machine": "x", **facts, **sums}

    data = {"cells": [], "gpu": {"kernels": [entry("fp16", 300, 0), entry("int8", 200, 60)]}}
    page = "\n".join(gpu_report_kernels.kernels(gpu_targets.Own(data, "x")))
    assert "| up | 300 | 200 (-100) |" in page
    assert "| quantize | 0 | 60 (+60) |" in page
    assert "| **all kernels** | 300 | 260 (-40) |" in page
