//! `config.toml` as people write it.

use std::collections::BTreeMap;
use std::path::Path;

use akidb_sidecar::config::Config;
use akidb_sidecar::config::reader::Environment;

/// As in the plan that this project began with, word for word.
const SEED: &str = r#"
[embedding.batching]
enabled = true
max_batch_size = 64
max_wait_time_ms = 10
adaptive = true

[embedding.models]
default = "all-MiniLM-L6-v2"

[[embedding.models.available]]
name = "all-MiniLM-L6-v2"
path = "s3://akidb-models/all-MiniLM-L6-v2-FP8.trt"
dimension = 384
precision = "fp8"

[[embedding.models.available]]
name = "distilled-MiniLM-L3-v2"
path = "s3://akidb-models/distilled-MiniLM-L3-v2-INT8.onnx"
dimension = 384
precision = "int8"

[[embedding.models.available]]
name = "bert-base-uncased"
path = "s3://akidb-models/bert-base-INT8.onnx"
dimension = 768
precision = "int8"

[[embedding.models.available]]
name = "bge-small-en-v1.5"
path = "s3://akidb-models/bge-small-INT8.onnx"
dimension = 384
precision = "int8"

[[embedding.models.available]]
name = "uae-large-v1"
path = "s3://akidb-models/uae-large-INT8.onnx"
dimension = 1024
precision = "int8"
"#;

fn env(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn parse(text: &str, pairs: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    Config::parse(text, Path::new("/etc/akidb"), &env(pairs)).map_err(|it| it.0)
}

#[test]
fn the_first_plan_loads_word_for_word() {
    let config = parse(SEED, &[]).unwrap();
    assert_eq!((config.batching.max_batch_size, config.batching.max_wait.as_millis()), (Some(64), 10));
    assert!(config.batching.enabled && config.batching.adaptive);
    assert_eq!(config.models.available.len(), 5);
    let default = config.models.default.unwrap();
    assert_eq!((default.model.as_str(), default.selector, default.entry), ("all-minilm-l6-v2", None, None));
}

#[test]
fn the_variable_beats_the_file_by_name_variant_or_artifact() {
    let default = |value: &str| parse(SEED, &[("AKIDB_EMBEDDING_MODEL", value)]).map(|it| it.models.default.unwrap());
    assert_eq!(default("bert-base").unwrap().model, "bert-base-uncased");
    assert_eq!(default("BGE-small@int8").unwrap().selector.as_deref(), Some("int8"));
    assert_eq!(default("all-MiniLM-L6-v2-FP8.trt").unwrap().entry, Some(0));
    let errors = default("gpt-9").unwrap_err();
    assert!(errors.len() == 1 && errors[0].contains("AKIDB_EMBEDDING_MODEL") && errors[0].contains("uae-large-v1"), "{errors:?}");
}

#[test]
fn every_error_is_told_at_once() {
    let text = r#"
        typo = 1
        [server]
        listen = "nowhere"
        lisen = "x"
        [embedding.batching]
        max_batch_size = 0
        adaptive = "yes"
        [device]
        share_ppm = 2000000
        [[embedding.models.available]]
        name = "a/b"
        path = "ftp://x/y"
        precision = "fp64"
        dimensions = 3
    "#;
    let errors = parse(text, &[("AKIDB_THREADS", "many"), ("AKIDB_EMBEDDING_PROVIDER", "gpu")]).unwrap_err();
    let told = errors.join("\n");
    for expected in [
        "unknown key `typo`",
        "`server.listen`: `nowhere`",
        "unknown key `server.lisen`: known here are listen,",
        "`embedding.batching.max_batch_size` (`AKIDB_MAX_BATCH_SIZE`): 0",
        "`embedding.batching.adaptive`: `yes` is not true or false",
        "`device.share_ppm` (`AKIDB_DEVICE_SHARE_PPM`): 2000000",
        "`embedding.models.available[0].name`: `a/b`",
        "`embedding.models.available[0].path`: `ftp://x/y`",
        "`embedding.models.available[0].precision`: `fp64` is not a precision",
        "unknown key `embedding.models.available[0].dimensions`",
        "variable `AKIDB_THREADS`: `many`",
        "variable `AKIDB_EMBEDDING_PROVIDER`: `gpu` is not an execution provider: tensorrt, cuda or cpu",
    ] {
        assert!(told.contains(expected), "`{expected}` is not in\n{told}");
    }
}

#[test]
fn a_token_is_never_printed() {
    let config = parse("[control_plane]\naddress = \"http://cp:7071\"", &[("AKIDB_CONTROL_PLANE_TOKEN", "s3cret-token")]).unwrap();
    assert!(!format!("{config:?}").contains("s3cret-token"));
    assert_eq!(config.control_plane.unwrap().token.as_deref(), Some("s3cret-token"));
}

#[test]
fn nothing_to_serve_is_an_error_and_a_price_of_its_own_is_not_asked() {
    assert!(Config::parse("", Path::new("/"), &BTreeMap::new()).unwrap_err().to_string().contains("nothing to serve"));
}

#[test]
fn tensorrt_provider_test_gpus_are_named_in_the_file_or_in_variables() {
    let text = "[runtime]\nprovider = \"tensorrt\"\ndevice_ids = [0, 1]\ncuda_graphs = []\ntf32 = false\n";
    let served = "[[embedding.models.available]]\nname = \"m\"\npath = \"m\"\n";
    let runtime = |env| parse(&format!("{text}{served}"), env).unwrap().runtime;
    let (file, variables) =
        (runtime(&[]), runtime(&[("AKIDB_DEVICE_IDS", "3"), ("AKIDB_CUDA_GRAPHS", "1x16,8x32"), ("AKIDB_CONTEXTS", "4")]));
    assert_eq!((file.device_ids, file.contexts, file.cuda_graphs.len(), file.tf32), (vec![0, 1], 2, 0, false));
    let graphs: Vec<String> = variables.cuda_graphs.iter().map(ToString::to_string).collect();
    assert_eq!((variables.device_ids, variables.contexts, graphs), (vec![3], 4, vec!["1x16".to_owned(), "8x32".to_owned()]));
    let usual = parse(served, &[]).unwrap();
    assert_eq!((usual.runtime.device_ids, usual.runtime.cuda_graphs.len(), usual.batching.max_queued_texts), (vec![0], 2, None));
    let told = parse("[runtime]\ndevice_ids = [0, 0]\ncontexts = 17\ncuda_graphs = [\"1x\", \"1x16\"]\n", &[]).unwrap_err().join("\n");
    for expected in [
        "`runtime.device_ids` (`AKIDB_DEVICE_IDS`): 0 is there twice: name each once",
        "`runtime.contexts` (`AKIDB_CONTEXTS`): 17 is not in 1..=16",
        "`runtime.cuda_graphs` (`AKIDB_CUDA_GRAPHS`): `1x` is not a shape, BATCHxTOKENS, e.g. 1x16,1x32",
    ] {
        assert!(told.contains(expected), "`{expected}` is not in\n{told}");
    }
    assert_eq!((usual.runtime.cuda_graph_limit, runtime(&[("AKIDB_CUDA_GRAPH_LIMIT", "0")]).cuda_graph_limit), (128, 0));
    let told = parse("[runtime]\ndevice_ids = [64, \"gpu0\"]\ncontexts = 0\n", &[]).unwrap_err().join("\n");
    for expected in [
        "`runtime.device_ids` (`AKIDB_DEVICE_IDS`): `64` is not the number of a GPU, 0 to 63, e.g. 0",
        "`runtime.device_ids` (`AKIDB_DEVICE_IDS`): `gpu0` is not the number of a GPU, 0 to 63, e.g. 0",
        "`runtime.contexts` (`AKIDB_CONTEXTS`): 0 is not in 1..=16",
    ] {
        assert!(told.contains(expected), "`{expected}` is not in\n{told}");
    }
    let told = parse("[runtime]\n", &[("AKIDB_DEVICE_IDS", "0,1,2,3,4,5,6,7,8")]).unwrap_err().join("\n");
    assert!(told.contains("(`AKIDB_DEVICE_IDS`): 9 values; at most 8 are allowed"), "{told}");
}

#[test]
fn tensorrt_provider_test_memory_is_limited_by_kind() {
    let served = "[[embedding.models.available]]\nname = \"m\"\npath = \"m\"\n";
    let limits = |text: &str, env: &[(&str, &str)]| {
        let models = parse(&format!("{text}{served}"), env).unwrap().models;
        (models.memory_limit_bytes, models.gpu_memory_limit_bytes)
    };
    assert_eq!(limits("", &[]), (None, None));
    assert_eq!(limits("[embedding.models]\ngpu_memory_limit_bytes = 40_000_000_000\n", &[]), (None, Some(40_000_000_000)));
    assert_eq!(
        limits("", &[("AKIDB_GPU_MEMORY_LIMIT_BYTES", "2097152"), ("AKIDB_MEMORY_LIMIT_BYTES", "1048576")]),
        (Some(1 << 20), Some(2 << 20))
    );
    let told = parse("[embedding.models]\ngpu_memory_limit_bytes = 40\n", &[]).unwrap_err().join("\n");
    let expected = "`embedding.models.gpu_memory_limit_bytes` (`AKIDB_GPU_MEMORY_LIMIT_BYTES`): 40 is not in 1048576..=1125899906842624";
    assert!(told.contains(expected), "{told}");
}
