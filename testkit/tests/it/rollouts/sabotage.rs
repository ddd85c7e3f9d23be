//! Bundles made bad from the fp32 one. Enters: a folder to write. Leaves: a bundle whose digests, reference vectors and evaluation are in order, so
//! that only live traffic tells. Never: a fault that an import or a sidecar's parity check would find.

use std::path::Path;
use std::process::Command;

use akidb_testkit::{bundle, copy_folder, reseal, venv_program};

/// Computes the reference vectors of what `model.onnx` is now.
const REFERENCE: &str = r#"
import json, pathlib, sys
import numpy, onnxruntime, tokenizers
folder = pathlib.Path(sys.argv[1])
tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.no_padding()
tokenizer.enable_truncation(256)
session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
reference = json.loads((folder / "reference.json").read_text())
def vector(text):
    ids = numpy.array([tokenizer.encode(text).ids], dtype=numpy.int64)
    return session.run(None, {"input_ids": ids, "attention_mask": numpy.ones_like(ids)})[0][0].tolist()
reference["vectors"] = [vector(it) for it in reference["texts"]]
(folder / "reference.json").write_text(json.dumps(reference))
"#;

/// The fp32 engine without what a text says, in its fourth layer: the vectors are wrong, the evaluation lies.
pub(super) fn gutted(to: &Path) {
    copy_folder(&bundle(), to);
    let path = to.join("model.onnx");
    let mut graph = std::fs::read(&path).expect("an engine");
    // A tensor's name, then its field 9: 384 floats.
    let tensor = b"encoder.layer.3.attention.output.LayerNorm.weight\x4a\x80\x0c";
    let at = graph.windows(tensor.len()).position(|it| it == tensor).expect("the tensor") + tensor.len();
    graph[at..at + 384 * 4].fill(0);
    std::fs::write(&path, graph).expect("a file");
    python(REFERENCE, to, &[]);
    reseal(to, "gutted");
}

/// Cuts the word table behind the last token that a reference text has: ONNX Runtime refuses the texts that have a later one.
const CUT: &str = r#"
import json, pathlib, sys
import onnx, tokenizers
from onnx import numpy_helper
folder = pathlib.Path(sys.argv[1])
tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
texts = json.loads((folder / "reference.json").read_text())["texts"]
last = max(max(tokenizer.encode(it).ids) for it in texts)
assert max(tokenizer.encode(sys.argv[2]).ids) > last, f"{sys.argv[2]} has no token after {last}"
model = onnx.load(str(folder / "model.onnx"))
table = next(it for it in model.graph.initializer if it.name == "embeddings.word_embeddings.weight")
table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table)[:last + 1].copy(), table.name))
onnx.save(model, str(folder / "model.onnx"))
"#;

/// The fp32 engine without the rows of its word table that no reference text needs: texts with `word` fail, all others have the same vectors.
pub(super) fn forgetful(to: &Path, word: &str) {
    copy_folder(&bundle(), to);
    python(CUT, to, &[word]);
    reseal(to, "forgetful");
}

/// Runs so many layers once more behind the last, and adds nothing of what comes out.
const DETOUR: &str = r#"
import pathlib, sys
import onnx
from onnx import helper, numpy_helper
import numpy
path = str(pathlib.Path(sys.argv[1]) / "model.onnx")
model, layers = onnx.load(path), int(sys.argv[2])
nodes = list(model.graph.node)
at = next(i for i, it in enumerate(nodes) if it.output[0] == "layer.5/out") + 1
detour = []
for node in nodes:
    if any(node.output[0].startswith(f"layer.{n}/") for n in range(layers)):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = "detour/" + node.name
        for names in (copy.input, copy.output):
            for i, name in enumerate(names):
                if name.startswith("layer."):
                    names[i] = "detour/" + name
                elif name == "embeddings/out":
                    names[i] = "layer.5/out"
        detour.append(copy)
detour.append(helper.make_node("Mul", [f"detour/layer.{layers - 1}/out", "nothing"], ["detour/nothing"]))
detour.append(helper.make_node("Add", ["layer.5/out", "detour/nothing"], ["detour/out"]))
model.graph.initializer.append(numpy_helper.from_array(numpy.zeros(1, numpy.float32), "nothing"))
rest = nodes[at:]
for node in rest:
    for i, name in enumerate(node.input):
        if name == "layer.5/out":
            node.input[i] = "detour/out"
del model.graph.node[:]
model.graph.node.extend(nodes[:at] + detour + rest)
onnx.checker.check_model(model)
onnx.save(model, path)
"#;

/// The fp32 engine with its first `layers` of six run twice: the same vectors, later.
pub(super) fn slower(to: &Path, layers: u32) {
    copy_folder(&bundle(), to);
    python(DETOUR, to, &[&layers.to_string()]);
    reseal(to, "slower");
}

fn python(program: &str, folder: &Path, arguments: &[&str]) {
    let done = Command::new(venv_program("python")).args(["-c", program]).arg(folder).args(arguments).output().expect("python runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
