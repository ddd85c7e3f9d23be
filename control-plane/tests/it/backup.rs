//! A backup while serving, a restore while not, and sidecars that send again what the restored database lacks.

use akidb_control_plane::backup;
use akidb_control_plane::clock::{Clock, SystemClock};
use serde_json::json;

use crate::app::TestApp;
use crate::sidecar::{Sidecar, window};

#[test]
fn a_restored_database_ends_where_the_lost_one_was() {
    let mut app = TestApp::start();
    let copy = app.folder.path().join("copy.db").display().to_string();
    app.post("models", &json!({"name": "kept"}));
    let born = Sidecar::new(&app, "s", "b0").watch().unwrap().welcome().epoch;
    Sidecar::new(&app, "s", "b1").report(vec![window(1, 1), window(2, 2)], 0).unwrap();
    app.runtime.block_on(backup::backup(&app.config, &copy)).unwrap();
    app.post("models", &json!({"name": "lost"}));
    Sidecar::new(&app, "s", "b1").report(vec![window(3, 4)], 0).unwrap();
    Sidecar::new(&app, "s", "b2").report(vec![window(1, 8)], 0).unwrap();

    let restore = |app: &TestApp, force| app.runtime.block_on(backup::restore(&app.config, &SystemClock, &copy, force));
    assert!(restore(&app, true).unwrap_err().to_string().contains("held by a control plane that runs"));
    app.stop();
    assert!(restore(&app, false).unwrap_err().to_string().contains("--force"));
    let first = restore(&app, true).unwrap().epoch;
    let epoch = restore(&app, true).unwrap().epoch;
    assert!(born < first && first < epoch, "{born}, {first}, {epoch}: never an epoch that a sidecar may have seen");
    app.run();

    assert_eq!(app.get("models")["models"].as_array().unwrap().len(), 1);
    assert_eq!(app.get("audit/verify")["valid"], true);
    let mut identity = Sidecar::new(&app, "s", "b2").identity();
    identity.spooled_boots = vec!["b1".into()];
    let mut stream = Sidecar::new(&app, "s", "b2").watch_as(identity).unwrap();
    let welcome = stream.welcome();
    let marks: Vec<_> = welcome.marks.iter().map(|it| (it.boot_id.as_str(), it.high_water_mark)).collect();
    assert_eq!((welcome.epoch, marks), (epoch, vec![("b1", 2), ("b2", 0)]));
    assert_eq!(stream.snapshot().version.unwrap().epoch, epoch);
    Sidecar::new(&app, "s", "b1").report(vec![window(2, 2), window(3, 4)], 0).unwrap();
    Sidecar::new(&app, "s", "b2").report(vec![window(1, 8)], 0).unwrap();
    assert_eq!(app.get("cost-per-request")["requests"], 15);
}

#[test]
fn a_backup_restored_again_after_a_lost_volume_is_another_epoch() {
    let mut app = TestApp::start();
    let copy = app.folder.path().join("copy.db").display().to_string();
    let born = Sidecar::new(&app, "s", "b0").watch().unwrap().welcome().epoch;
    app.runtime.block_on(backup::backup(&app.config, &copy)).unwrap();
    app.stop();
    let epochs = [40_000, 40_001].map(|days| {
        std::fs::remove_dir_all(&app.config.data_dir).unwrap();
        let clock = On(days);
        app.runtime.block_on(backup::restore(&app.config, &clock, &copy, false)).unwrap().epoch
    });
    assert!(born < epochs[0] && epochs[0] < epochs[1], "{epochs:?}: sidecars must not take one for the other");
}

/// A clock that stands on a day.
struct On(u64);

impl Clock for On {
    fn now_ns(&self) -> u64 {
        self.0 * 86_400_000_000_000
    }
}

#[test]
fn a_damaged_backup_changes_nothing() {
    let mut app = TestApp::start();
    app.post("models", &json!({"name": "kept"}));
    app.stop();
    let copy = app.folder.path().join("copy.db");
    std::fs::write(&copy, b"not a database, but long enough to be read as one").unwrap();
    let error = app.runtime.block_on(backup::restore(&app.config, &SystemClock, &copy.display().to_string(), true)).unwrap_err();
    assert!(error.to_string().contains("not a sound backup"), "{error:#}");
    app.run();
    assert_eq!(app.get("models")["models"].as_array().unwrap().len(), 1);
}
