"""The witnesses of the tests: a checkpoint enters sentence-transformers and transformers, vectors as JSON leave.

Not run by the tests. To repeat it, in an environment of its own with `sentence-transformers`:
`python scripts/tests/make_golden.py MINILM_FOLDER scripts/tests/data`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import tiny
import tokenizers
import torch
import transformers
from sentence_transformers import SentenceTransformer, __version__

LONG = (
    "The river rises in the hills above the old mill, runs past three villages and a paper factory, and reaches the "
    "sea at a sandy bay where fishing boats are pulled up for the winter. "
) * 12
TEXTS = [
    "What is Deep Learning?",
    "The museum opens at nine on weekdays and stays closed on Mondays.",
    "Déjà vu: Žižkov, Göteborg, São Paulo, Kraków und ein Stück Käsekuchen für 3,50 €.",
    "这家餐厅的牛肉面非常好吃，下次还要再来。",
    "窓を開けて、新しい空気を入れましょう。",
    "هل يمكنني استئجار دراجة ليوم واحد؟",
    "Happy birthday 🎂🥳 see you at the beach 🏖️👨‍👩‍👧!",
    "def area(r: float) -> float:\n    return math.pi * r ** 2  # in m²",
    "again again again again again again again again",
    "ok",
    LONG,
]
VERSIONS = {
    "sentence-transformers": __version__,
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "tokenizers": tokenizers.__version__,
}


def minilm(folder: str) -> dict:
    """Vectors of all-MiniLM-L6-v2, one text at a time, 256 tokens kept."""
    model = SentenceTransformer(folder, device="cpu")
    assert model.max_seq_length == 256 and len(model.tokenizer(LONG)["input_ids"]) > 256
    vectors = model.encode(TEXTS, batch_size=1, normalize_embeddings=True)
    return {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "made_with": {**VERSIONS, "max_seq_length": model.max_seq_length},
        "texts": TEXTS,
        "vectors": rounded(vectors.tolist()),
    }


def families() -> dict:
    """Last hidden state of the first and the last token of seeded tiny checkpoints, by model_type."""
    found = {"made_with": VERSIONS, "ids": [2, 30, 41, 52, 17, 60, 33, 3], "hidden": {}}
    for kind in tiny.ARCHITECTURE:
        with tempfile.TemporaryDirectory() as folder:
            model = transformers.AutoModel.from_pretrained(tiny.checkpoint(Path(folder) / "m", kind)).eval()
            with torch.no_grad():
                states = model(input_ids=torch.tensor([found["ids"]])).last_hidden_state[0]
            found["hidden"][kind] = rounded([states[0].tolist(), states[-1].tolist()])
    return found


def rounded(rows: list[list[float]]) -> list[list[float]]:
    """Seven significant digits, more than float32 arithmetic repeats."""
    return [[float(f"{x:.7g}") for x in row] for row in rows]


if __name__ == "__main__":
    data = Path(sys.argv[2])
    for name, value in (("minilm_sentence_transformers", minilm(sys.argv[1])), ("tiny_transformers", families())):
        (data / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False) + "\n", "utf-8")
