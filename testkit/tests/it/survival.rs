//! The sidecar goes on without its control plane.

use akidb_testkit::System;
use serde_json::json;

use crate::until_counted;

#[test]
fn a_sidecar_started_while_the_control_plane_is_down_serves_its_last_snapshot() {
    let mut system = System::ready(Some("0.10"));
    assert_eq!(system.embed(&json!({"text": "before"})).0, 200);
    until_counted(&system, 1);
    system.control.take().expect("it runs").kill();
    assert!(system.sidecar.take().expect("it runs").terminate().success());

    system.start_sidecar();
    let (status, body) = system.embed(&json!({"text": "What is Deep Learning?"}));
    assert_eq!((status, body["dimension"].as_u64()), (200, Some(384)), "{body}");
    let first: Vec<f64> = (0..3).map(|i| body["embedding"][i].as_f64().expect("a number")).collect();
    for (got, want) in first.iter().zip([-0.077_851, -0.033_280, 0.019_743]) {
        assert!((got - want).abs() < 2e-5, "{first:?}");
    }

    system.start_control();
    until_counted(&system, 2);
}

#[test]
fn sigterm_ends_both_services_in_good_order() {
    let mut system = System::ready(None);
    let (status, ready) = system.get("/readyz");
    assert_eq!(status, 200, "{ready}");
    assert!(system.sidecar.take().expect("it runs").terminate().success());
    assert!(system.control.take().expect("it runs").terminate().success());
}
