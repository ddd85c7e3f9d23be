//! A canary with the baseline's vectors that takes 1.4 times as long goes back by the time of its batches, by probes alone.

use super::*;

#[test]
fn an_engine_that_is_slower_goes_back() {
    let (system, _, _turn) = system();
    let folder = system.path("slower");
    // Three layers of six once more: some 1.4 times the engine time.
    sabotage::slower(&folder, 3);
    system.akidb(&["models", "import", &folder.display().to_string()]);
    let load = Load::start(&system, 3);
    let begun = Instant::now();
    start(&system, "slow", "slower", |body| {
        for margin in ["speed", "cost"] {
            body["config"]["margins"][margin] = json!(0.1);
        }
    });
    // The mean time of a batch is what both look at.
    let it = rolled_back(&system, "slow", &["speed", "cost"]);
    println!("rolled back after {:?}: {}", begun.elapsed(), it["reason"]);
    assert!(load.finish() > 20);
    let record = replayed(&system, "slow", 1);
    let looks = record["record"]["looks"].as_array().expect("looks");
    let probes: Vec<&Value> = looks.iter().flat_map(|it| it["probes"].as_array().expect("probes")).collect();
    let number = |it: &Value, what: &str| it[what].as_f64().expect("a number");
    let mut ratios: Vec<f64> = probes.iter().map(|it| number(it, "canary_ns") / number(it, "baseline_ns")).collect();
    ratios.sort_by(f64::total_cmp);
    println!("{} probes, the median canary/baseline {:.3}", ratios.len(), ratios[ratios.len() / 2]);
    // Slow, and nothing else: the vectors are the baseline's.
    assert!(ratios[ratios.len() / 2] > 1.1, "{ratios:?}");
    assert!(probes.iter().all(|it| number(it, "cosine") > 0.9999), "{probes:?}");
}
