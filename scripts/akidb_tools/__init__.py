"""Model tools: a checkpoint enters, a bundle (docs/BUNDLE.md) leaves; a bundle enters, a quantized one leaves.

Reading order: `source` (which folder), `checkpoint`, `architecture` and
`weights` (what is in it), `tokenizer`, `bert_graph` or
`optimum` (the ONNX file, both ending in `pooling`), `forward` (the same vectors without ONNX), `parity` (do they
agree), `bundle` (files, digests, manifest), `export` (all of it in order).

Texts: `corpus_sources` and `request_logs`, `corpus`, `text_sets`, `odd_texts`. A quantized bundle: `bundle_reader`,
`linear_layers`, `activations`, `static_ranges` and `channel_moves`, `int8_graph` or `fp8_graph`, `recipes`,
`quantize_plan`, `quality` and `runtime`, `validate`, `quantize` (all of it in order).

All models at once: `five_models` (which), `seeded` (weights where none are given), `model_steps`, `step_inputs` and
`steps` (what is run, and when again), `models_report`, `built`, `publish`, `catalog`.

A student: `corpus_train` (texts), `distill_inputs`, `distill_plan`, `distill_cache`, `distill_state`, `distill_net` and
`distill_train` (the two that need torch), `distill_folder`, `distill` (all of it in order).

A TensorRT engine: `shape_profiles`, `engine_source` (what to build from), `engine_calibration`, `engine_smooth`,
`engine_graph`, `engine_qdq` and `engine_half` (the graph that TensorRT gets), `engine_candidates` (which of them),
`tensorrt_provider` and `tensorrt_native` (two builders), `engine_compile`, `engine_options`, `engine_run`,
`engine_invariance` and `engine_proof` (what it must give), `engine_bundle`, `engine_release` (into a catalog),
`engine_build` (all of it in order).

The GPU benchmark: `gpu_plan` (what), `gpu_machine`, `gpu_nvml`, `gpu_results`, `gpu_timing`, `gpu_services` and
`gpu_stage` (with what), `gpu_build`, `gpu_matrix`, `gpu_http`, `gpu_swap`, `gpu_faults` and `gpu_two` (stages),
`gpu_plot`, `gpu_report`.

Every script's `main` goes through `command`: errors become a line and an exit code.
"""

__version__ = "0.1.0"
