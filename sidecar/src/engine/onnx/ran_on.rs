//! Which provider really ran a graph. Pure.
//!
//! Enters: a profile that ONNX Runtime wrote. Leaves: yes, or what ran elsewhere. Never: a guess from what was asked for.

/// Whether a profile of ONNX Runtime shows that `provider` ran all that is heavy. Shapes and the like are the CPU's by right.
pub(super) fn ran_on(profile: &[u8], provider: &str) -> Result<(), String> {
    let events: Vec<serde_json::Value> = serde_json::from_slice(profile).map_err(|it| format!("ONNX Runtime's profile: {it}"))?;
    let ran = events.iter().filter_map(|it| Some((it["args"]["provider"].as_str()?, it["args"]["op_name"].as_str()?)));
    let heavy: Vec<(&str, &str)> = ran.filter(|(_, op)| ["MatMul", "Gemm", "Attention"].iter().any(|it| op.contains(it))).collect();
    match heavy.iter().find(|it| it.0 != provider) {
        Some((elsewhere, op)) => Err(format!("{elsewhere} ran `{op}`, not {provider}")),
        None if heavy.is_empty() => Err(format!("nothing shows that {provider} ran any of the graph's products")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensorrt_provider_test_a_product_on_another_provider_is_seen() {
        let event = |provider: &str, op: &str| serde_json::json!({"cat": "Node", "args": {"provider": provider, "op_name": op}});
        let check = |events: Vec<serde_json::Value>, expected: Result<(), &str>| {
            let got = ran_on(&serde_json::to_vec(&events).unwrap(), "CUDAExecutionProvider");
            match (got, expected) {
                (Ok(()), Ok(())) => {}
                (Err(got), Err(part)) => assert!(got.contains(part), "{got}"),
                (got, expected) => panic!("{got:?}, expected {expected:?}"),
            }
        };
        let (cuda, cpu) = ("CUDAExecutionProvider", "CPUExecutionProvider");
        check(vec![event(cuda, "FusedMatMul"), event(cpu, "Shape"), serde_json::json!({"cat": "Session"})], Ok(()));
        check(vec![event(cuda, "MatMul"), event(cpu, "MatMulInteger")], Err("CPUExecutionProvider ran `MatMulInteger`"));
        check(vec![event(cpu, "Shape")], Err("nothing shows"));
    }
}
