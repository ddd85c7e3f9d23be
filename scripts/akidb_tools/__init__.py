"""Model tools: a checkpoint enters, a bundle (docs/BUNDLE.md) leaves.

Reading order: `source` (which folder), `checkpoint`, `architecture` and
`weights` (what is in it), `tokenizer`, `bert_graph` or
`optimum` (the ONNX file, both ending in `pooling`), `forward` (the same vectors without ONNX), `parity` (do they
agree), `bundle` (files, digests, manifest), `export` (all of it in order).
"""

__version__ = "0.1.0"
