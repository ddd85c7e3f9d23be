//! What the default budget of paired probes costs a saturated sidecar.
//!
//! Enters: rounds. Leaves: throughput and p99 with probes against without, and the part of the device's time that probes took. Never: a round
//! of one kind without one of the other beside it, a credit that was saved up while probes were off.
//!
//! The sidecar follows a control plane of a few lines, over the real protocol: fp32 against a twin of it, 5 % of the traffic each in the
//! canary's lane and in control. The two kinds of round differ in the budget alone.

use std::time::{Duration, Instant};

use akidb_domain::snapshot::{ProbeBudget, Snapshot};
use akidb_proto::v1;
use akidb_proto::v1::watch_response::Message as Out;
use tokio::runtime::Runtime;

use super::bundle::Bundle;
use super::load::{self, Plan};
use super::plane::Plane;
use super::server::{Counters, Server};
use super::told;
use super::{Bench, Mix, WARM_UP, median, quantile, texts_a_second};

/// As many as may wait while a probe is made: with more of them the default budget sheds probes, and they cost nothing.
const CLIENTS: usize = 8;
/// A default budget makes a probe of a full batch every few seconds.
const WINDOW: Duration = Duration::from_secs(5);
/// Of the device's time, under saturating load.
const MOST: f64 = 0.01;

/// A sidecar in an experiment; it goes before its control plane does.
struct Stage {
    server: Server,
    runtime: Runtime,
    plane: Plane,
    twin: Bundle,
    _folder: tempfile::TempDir,
    said: u64,
}

/// Rounds of one kind.
#[derive(Default)]
struct Side {
    rates: Vec<f64>,
    p99: Vec<f64>,
    latencies: Vec<u64>,
    during: Counters,
    elapsed: f64,
}

impl Bench {
    /// Probes on and off.
    pub(crate) fn probes(&mut self) {
        let mut stage = Stage::start();
        let path = stage.server.file("texts");
        let ids = self.prepare(Mix::Uniform(18), &path);
        let mean_tokens = ids.iter().map(Vec::len).sum::<usize>() as f64 / ids.len() as f64;
        println!("\nprobes on and off: uniform 18 words, {CLIENTS} clients, {} rounds of {WINDOW:?}", self.rounds);
        let mut sides = [Side::default(), Side::default()];
        for round in 0..self.rounds {
            // Either is the first as often.
            for side in [round % 2, 1 - round % 2] {
                stage.say(if side == 0 { ProbeBudget::default() } else { NONE });
                let address = &stage.server.address;
                let plan = Plan { address, texts: &path, clients: CLIENTS, warm_up: WARM_UP, window: WINDOW, short: false };
                sides[side].round(&stage.server, &plan, mean_tokens);
            }
        }
        self.report(&sides);
    }

    fn report(&mut self, [on, off]: &[Side; 2]) {
        println!("  texts/s: on {:.0}, off {:.0}", median(&on.rates), median(&off.rates));
        println!("  p99: on {:.2} ms of {}, off {:.2} ms of {}", on.all(0.99), on.latencies.len(), off.all(0.99), off.latencies.len());
        println!(
            "  p99.9: on {:.2} ms, off {:.2} ms; p50: on {:.2} ms, off {:.2} ms",
            on.all(0.999),
            off.all(0.999),
            on.all(0.5),
            off.all(0.5)
        );
        println!("  probes: on {:.0}, off {:.0}; engine busy {:.1} % of the time", on.during.probes, off.during.probes, 100.0 * on.busy());
        for (what, on, off) in [("throughput", &on.rates, &off.rates), ("p99", &on.p99, &off.p99)] {
            println!("  {what}, on / off: medians {:.4}", median(on) / median(off));
            beside("on / off", on, off);
            // What two rounds of one kind differ by.
            beside("off / the off before", off.get(1..).unwrap_or_default(), off);
        }
        assert!(on.during.probes >= 1.0, "no probe was made");
        self.target("device time that probes took, of all", on.during.probe_seconds / on.elapsed, MOST, false);
    }
}

/// No probe, and no credit for one.
const NONE: ProbeBudget = ProbeBudget { device_ppm: 0, idle_ppm: 0, shed_queue_texts: 8 };

impl Stage {
    fn start() -> Self {
        let (runtime, folder) = (Runtime::new().expect("a runtime"), tempfile::tempdir().expect("a folder"));
        let (plane, port) = (Plane::default(), akidb_testkit::free_port());
        let twin = Bundle::twin(&folder.path().join("twin"), "all-MiniLM-L6-v2", 1);
        runtime.block_on(async {
            plane.say(Out::Snapshot(snapshot(1, &twin, NONE).into())).await;
            plane.listen(port).await;
        });
        let server = Server::linked(port);
        let ready = i32::from(v1::artifact_status::State::Ready);
        let both = |it: &super::plane::Seen| (it.statuses.iter().filter(|it| it.state == ready).count() >= 2).then_some(());
        runtime.block_on(async {
            plane.until("two engines", both).await;
            plane.say(Out::Lease(v1::Lease { experiment: told::EXPERIMENT.into(), ttl_ms: 3_600_000 })).await;
        });
        Self { server, runtime, plane, twin, _folder: folder, said: 1 }
    }

    /// Changes the budget, and waits until the sidecar has it.
    fn say(&mut self, budget: ProbeBudget) {
        self.said += 1;
        let (said, snapshot) = (self.said, snapshot(self.said, &self.twin, budget));
        self.runtime.block_on(async {
            self.plane.say(Out::Snapshot(snapshot.into())).await;
            let acked = |it: &super::plane::Seen| it.acks.iter().any(|it| it.version.is_some_and(|it| it.n == said)).then_some(());
            self.plane.until("the budget is followed", acked).await;
        });
    }
}

fn snapshot(n: u64, twin: &Bundle, budget: ProbeBudget) -> Snapshot {
    let mut snapshot = told::experiment(n, told::variant(&twin.folder, "twin"));
    let split = &mut snapshot.splits[0];
    (split.canary_ppm, split.control_ppm, split.probe) = (50_000, 50_000, Some(budget));
    snapshot
}

impl Side {
    fn round(&mut self, server: &Server, plan: &Plan<'_>, mean_tokens: f64) {
        let (before, from) = (server.counters(), Instant::now());
        let seen = load::run(plan);
        self.elapsed += from.elapsed().as_secs_f64();
        let during = server.counters().since(&before);
        self.during.probes += during.probes;
        self.during.probe_seconds += during.probe_seconds;
        self.during.engine_seconds += during.engine_seconds;
        self.rates.push(texts_a_second(&seen, mean_tokens));
        self.p99.push(quantile(&seen.latencies, 0.99));
        self.latencies.extend(seen.latencies);
    }

    fn all(&self, q: f64) -> f64 {
        quantile(&self.latencies, q)
    }

    fn busy(&self) -> f64 {
        (self.during.engine_seconds + self.during.probe_seconds) / self.elapsed
    }
}

/// Ratios of rounds beside each other: median, mean and its standard error, all of them.
fn beside(what: &str, above: &[f64], below: &[f64]) {
    let ratios: Vec<f64> = above.iter().zip(below).map(|(above, below)| above / below).collect();
    if ratios.is_empty() {
        return;
    }
    let count = ratios.len() as f64;
    let mean = ratios.iter().sum::<f64>() / count;
    let variance = ratios.iter().map(|it| (it - mean) * (it - mean)).sum::<f64>() / (count - 1.0).max(1.0);
    println!(
        "    {what}, by round: median {:.3}, mean {mean:.3} with a standard error of {:.3}: {}",
        median(&ratios),
        (variance / count).sqrt(),
        ratios.iter().map(|it| format!("{it:.3}")).collect::<Vec<_>>().join(" ")
    );
}
