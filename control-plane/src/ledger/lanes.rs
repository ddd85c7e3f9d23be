//! What of a window the rollout decider needs. Enters: a window as it came, live experiments. Leaves: for each that it concerns, a window with that
//! experiment's lanes, probes and lease gaps alone. Never: an experiment that is not live.

use akidb_proto::{v1, window_to_bytes};

/// The experiments that a window concerns. Lost observations may be of any of them.
pub(crate) fn of(window: &v1::Window, live: &[String]) -> Vec<(String, Vec<u8>)> {
    let of = live.iter().map(|id| (id, excerpt(window, id)));
    let concerned =
        of.filter(|(_, it)| !it.lanes.is_empty() || !it.probes.is_empty() || !it.lease_gaps.is_empty() || it.lost_observations > 0);
    concerned.map(|(id, it)| (id.clone(), window_to_bytes(&it))).collect()
}

fn excerpt(window: &v1::Window, experiment: &str) -> v1::Window {
    let lanes = window.lanes.iter().filter(|it| it.lane.as_ref().is_some_and(|it| it.experiment == experiment));
    v1::Window {
        lanes: lanes.map(without_consumers).collect(),
        probes: window.probes.iter().filter(|it| it.experiment == experiment).cloned().collect(),
        lease_gaps: window.lease_gaps.iter().filter(|it| it.experiment == experiment).cloned().collect(),
        device: window.device.clone().map(|it| v1::DeviceUsage { overheads: Vec::new(), ..it }),
        sequence: window.sequence,
        snapshot: window.snapshot,
        start_ns: window.start_ns,
        end_ns: window.end_ns,
        lost_observations: window.lost_observations,
        last: window.last,
    }
}

/// Money has its own tables.
fn without_consumers(it: &v1::LaneUsage) -> v1::LaneUsage {
    v1::LaneUsage { consumers: Vec::new(), latency: None, queue: None, engine: None, ..it.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_kept_for_live_experiments_that_it_concerns() {
        let lane = |experiment: &str| v1::LaneUsage {
            lane: Some(v1::Lane { experiment: experiment.into(), ..v1::Lane::default() }),
            consumers: vec![v1::ConsumerUsage::default()],
            ..v1::LaneUsage::default()
        };
        let window = v1::Window { lanes: vec![lane("a"), lane(""), lane("b"), lane("over")], ..v1::Window::default() };
        let live = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let kept = of(&window, &live);
        assert_eq!(kept.iter().map(|it| it.0.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let a = akidb_proto::window_from_bytes(&kept[0].1).unwrap();
        assert_eq!((a.lanes.len(), a.lanes[0].consumers.len()), (1, 0));
        let lossy = v1::Window { lost_observations: 1, ..v1::Window::default() };
        assert_eq!(of(&lossy, &live).len(), 3);
    }
}
