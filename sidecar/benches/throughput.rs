//! How near the whole sidecar comes to its engine, and how far a short request is held up by long ones.
//!
//! Enters: sections to run (`mixed`, `uniform`, `switch`, `short`, `memory`, `probes`; all without any) and `--rounds N`. Leaves: figures; exit 1
//! when a target is missed. Never: two things compared that did not take turns in this run.
//!
//! The sidecar is its own program with its default settings. The clients are a second process with a thread and a kept connection each;
//! they get no core of their own, and what they use is printed, not taken off. The raw bound runs in this process while the other two wait.
//! `cargo bench -p akidb-sidecar --bench throughput`

#[expect(dead_code, reason = "tests spoil bundles too")]
#[path = "../tests/it/supply/bundle.rs"]
mod bundle;
#[path = "throughput/figures.rs"]
mod figures;
#[path = "throughput/load.rs"]
mod load;
#[expect(dead_code, reason = "tests ask it more")]
#[path = "../tests/it/supply/plane.rs"]
mod plane;
#[path = "throughput/probes.rs"]
mod probes;
#[path = "throughput/raw.rs"]
mod raw;
#[path = "throughput/server.rs"]
mod server;
#[path = "throughput/texts.rs"]
mod texts;
#[path = "../tests/it/supply/told.rs"]
mod told;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use akidb_domain::bundle::Manifest;
use akidb_domain::vocabulary::ExecutionProvider;
use akidb_sidecar::engine::onnx::{self, Runtime};
use akidb_sidecar::engine::{EngineSpec, GpuSpec};
use akidb_sidecar::tokenizer::{Tokenizer, TokenizerPool};

use figures::median;
use load::{Plan, Seen};
use raw::Raw;
use server::Server;
use texts::Mix;

/// Clients at once.
const CLIENTS: usize = 64;
/// Texts of a raw pass.
const TEXTS: usize = 160;
const WARM_UP: Duration = Duration::from_millis(500);
const WINDOW: Duration = Duration::from_millis(1_500);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|it| it == "--load") {
        load::child(&arguments[1..]);
        return ExitCode::SUCCESS;
    }
    // `cargo test` builds benches too, and passes `--test` when it runs them.
    if arguments.iter().any(|it| it == "--test") {
        return ExitCode::SUCCESS;
    }
    let rounds = figures::rounds(&arguments, 15);
    let named: Vec<&str> = arguments.iter().map(String::as_str).filter(|it| SECTIONS.contains(it)).collect();
    let wanted = |section: &str| named.is_empty() || named.contains(&section);
    let mut bench = Bench::new(rounds);
    if wanted("uniform") {
        bench.against_raw("uniform 18 words", Mix::Uniform(18), 0.95);
    }
    if wanted("mixed") {
        bench.against_raw("mixed lengths", Mix::Mixed, 0.90);
    }
    if wanted("switch") {
        bench.switch();
    }
    if wanted("short") {
        bench.short();
    }
    if wanted("memory") {
        bench.memory();
    }
    if wanted("probes") {
        bench.probes();
    }
    if bench.missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const SECTIONS: [&str; 6] = ["mixed", "uniform", "switch", "short", "memory", "probes"];

struct Bench {
    rounds: usize,
    missed: usize,
    raw: Raw,
    tokenizer: Tokenizer,
}

impl Bench {
    fn new(rounds: usize) -> Self {
        Runtime::init(&akidb_testkit::onnxruntime()).expect("ONNX Runtime");
        let bundle = akidb_testkit::bundle();
        let manifest = Manifest::parse(&std::fs::read(bundle.join("manifest.json")).expect("a manifest")).expect("a valid manifest");
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (graph, dimension) = (manifest.graph.clone(), manifest.model.dimension as usize);
        let spec = EngineSpec {
            path: bundle.join("model.onnx"),
            graph,
            dimension,
            provider: ExecutionProvider::Cpu,
            threads,
            gpu: GpuSpec::default(),
        };
        let pool = TokenizerPool::start(1).expect("threads");
        let tokenizer = Tokenizer::load(&bundle.join("tokenizer.json"), manifest.model.max_tokens, &pool).expect("a tokenizer");
        println!("{threads} threads, {}, {rounds} rounds", Runtime::version().split_whitespace().take(4).collect::<Vec<_>>().join(" "));
        Self { rounds, missed: 0, raw: Raw { engine: onnx::load(&spec).expect("an engine") }, tokenizer }
    }

    /// Ids of texts, and the file that the clients read.
    fn prepare(&self, mix: Mix, path: &Path) -> Vec<Vec<u32>> {
        let texts = texts::texts(mix, TEXTS);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let encoded = runtime.block_on(self.tokenizer.encode(texts.clone(), true)).expect("tokens");
        let lines: Vec<String> = encoded.iter().zip(&texts).map(|(it, text)| format!("{}\t{text}\n", it.ids.len())).collect();
        std::fs::write(path, lines.concat()).expect("a file of texts");
        encoded.into_iter().map(|it| it.ids).collect()
    }

    /// Texts a second over HTTP against the raw bound.
    fn against_raw(&mut self, name: &str, mix: Mix, target: f64) {
        let server = Server::start(&[]);
        let path = server.file("texts");
        let ids = self.prepare(mix, &path);
        let mean_tokens = ids.iter().map(Vec::len).sum::<usize>() as f64 / ids.len() as f64;
        println!("\n{name}: {CLIENTS} clients, {mean_tokens:.1} tokens a text");
        let budgets = self.raw.sweep(&ids);
        let batches = budgets.map(|it| raw::batches(&ids, it, 64));
        let plan = Plan { address: &server.address, texts: &path, clients: CLIENTS, warm_up: WARM_UP, window: WINDOW, short: false };
        load::run(&plan);
        let before = server.counters();
        let (mut bounds, mut over_http, mut latencies) = ([Vec::new(), Vec::new()], Vec::new(), Vec::new());
        let (mut raw_cpu, mut server_cpu, mut client_cpu, mut elapsed) = (0.0, 0.0, 0.0, Duration::ZERO);
        for _ in 0..self.rounds {
            let cpu = load::cpu_seconds("self");
            for (batches, bound) in batches.iter().zip(&mut bounds) {
                bound.push(raw::rate(ids.len(), self.raw.pass(batches)));
            }
            raw_cpu += load::cpu_seconds("self") - cpu;
            let (cpu, from) = (server.cpu_seconds(), Instant::now());
            let seen = load::run(&plan);
            server_cpu += server.cpu_seconds() - cpu;
            elapsed += from.elapsed();
            client_cpu += seen.cpu * from.elapsed().as_secs_f64();
            over_http.push(texts_a_second(&seen, mean_tokens));
            latencies.extend(seen.latencies);
        }
        let during = server.counters().since(&before);
        let best = usize::from(median(&bounds[1]) > median(&bounds[0]));
        println!("  raw bound {:.0} texts/s (budget {} tokens), over HTTP {:.0}", median(&bounds[best]), budgets[best], median(&over_http));
        let ratios: Vec<f64> = over_http.iter().zip(&bounds[best]).map(|(http, raw)| http / raw).collect();
        println!("  by round: {}", ratios.iter().map(|it| format!("{it:.2}")).collect::<Vec<_>>().join(" "));
        println!("  latency p50 {:.1} ms, p99 {:.1} ms of {}", quantile(&latencies, 0.5), quantile(&latencies, 0.99), latencies.len());
        println!(
            "  padding {:.1} %; engine busy {:.1} % of the time",
            during.padding(),
            100.0 * during.engine_seconds / elapsed.as_secs_f64()
        );
        println!("  texts a batch: {}", during.distribution());
        let texts = during.tokens / mean_tokens;
        let raw = 1e3 * raw_cpu / (2 * self.rounds * ids.len()) as f64;
        let (sidecar, clients) = (1e3 * server_cpu / texts, 1e3 * client_cpu / texts);
        println!(
            "  CPU a text: raw {raw:.2} ms; sidecar {sidecar:.2} ms + clients {clients:.2} ms: {:.3} of raw",
            raw / (sidecar + clients)
        );
        self.target("over HTTP / raw bound", median(&over_http) / median(&bounds[best]), target, true);
    }

    /// Batching on and off, beside what the raw engine allows.
    fn switch(&mut self) {
        let (on, off) = (Server::start(&[]), Server::start(&[("AKIDB_BATCHING_ENABLED", "false")]));
        let path = on.file("texts");
        let ids = self.prepare(Mix::Uniform(18), &path);
        println!("\nbatching on and off: uniform 18 words, {CLIENTS} clients");
        for rows in [1, 16, 32] {
            let batch = &raw::batches(&ids, usize::MAX, rows)[0];
            let times: Vec<f64> = (0..60).map(|_| self.raw.pass(std::slice::from_ref(batch)).as_secs_f64() * 1e3).collect();
            println!("  engine at batch {rows}: p50 {:.2} ms", median(&times));
        }
        let [budget, _] = self.raw.sweep(&ids);
        let (one, many) = (raw::batches(&ids, usize::MAX, 1), raw::batches(&ids, budget, 64));
        let mean_tokens = ids.iter().map(Vec::len).sum::<usize>() as f64 / ids.len() as f64;
        let (mut served, mut raw) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for _ in 0..self.rounds {
            for (i, (server, batches)) in [(&on, &many), (&off, &one)].into_iter().enumerate() {
                let address = &server.address;
                let plan = Plan { address, texts: &path, clients: CLIENTS, warm_up: WARM_UP, window: WINDOW, short: false };
                served[i].push(texts_a_second(&load::run(&plan), mean_tokens));
                raw[i].push(raw::rate(ids.len(), self.raw.pass(batches)));
            }
        }
        let ratio = |it: &[Vec<f64>; 2]| median(&it[0]) / median(&it[1]);
        println!("  over HTTP: on {:.0}, off {:.0} texts/s: {:.2}x", median(&served[0]), median(&served[1]), ratio(&served));
        println!("  raw engine: best batches {:.0}, one by one {:.0} texts/s: {:.2}x", median(&raw[0]), median(&raw[1]), ratio(&raw));
    }

    /// One client of short texts beside eight of long ones, and beside eight of short ones.
    fn short(&mut self) {
        println!("\na short request beside 8 clients of 150 words, and beside 8 clients of 10 words");
        let server = Server::start(&[]);
        let (long, few) = (server.file("long"), server.file("few"));
        self.prepare(Mix::Uniform(150), &long);
        self.prepare(Mix::Uniform(10), &few);
        let mut latencies = [Vec::new(), Vec::new()];
        let enough = |it: &[Vec<u64>; 2]| it.iter().all(|it| it.len() >= 1_000);
        while !enough(&latencies) {
            for (latencies, texts) in latencies.iter_mut().zip([&long, &few]) {
                let window = Duration::from_secs(6);
                let plan = Plan { address: &server.address, texts, clients: 8, warm_up: WARM_UP, window, short: true };
                latencies.extend(load::run(&plan).latencies);
            }
        }
        let ms = |i: usize, q: f64| quantile(&latencies[i], q);
        let line = |i: usize| format!("p50 {:.1} ms, p99 {:.1} ms of {}", ms(i, 0.5), ms(i, 0.99), latencies[i].len());
        println!("  beside long ones: {}; beside short ones: {}", line(0), line(1));
        self.target("p50 beside long / beside short", ms(0, 0.5) / ms(1, 0.5), 3.0, false);
        self.target("p99 beside long / beside short", ms(0, 0.99) / ms(1, 0.99), 4.0, false);
    }

    /// Resident memory: idle, under mixed load, and after it.
    fn memory(&mut self) {
        println!("\nresident memory of the sidecar: MiniLM fp32, {CLIENTS} clients of mixed lengths");
        let server = Server::start(&[]);
        let path = server.file("texts");
        self.prepare(Mix::Mixed, &path);
        std::thread::sleep(Duration::from_secs(1));
        let idle = server.rss_mb();
        let window = Duration::from_secs(12);
        let plan = Plan { address: &server.address, texts: &path, clients: CLIENTS, warm_up: WARM_UP, window, short: false };
        let peak = std::thread::scope(|scope| {
            let load = scope.spawn(|| load::run(&plan));
            let mut peak = 0.0_f64;
            while !load.is_finished() {
                peak = peak.max(server.rss_mb());
                std::thread::sleep(Duration::from_millis(50));
            }
            peak
        });
        std::thread::sleep(Duration::from_secs(3));
        println!("  idle {idle:.0} MB, most under load {peak:.0} MB, 3 s after it {:.0} MB", server.rss_mb());
        self.target("idle, GB", idle / 1e3, 0.25, false);
        self.target("under load, GB", peak / 1e3, 0.40, false);
    }

    fn target(&mut self, what: &str, value: f64, target: f64, at_least: bool) {
        let met = if at_least { value >= target } else { value <= target };
        self.missed += usize::from(!met);
        let sign = if at_least { ">=" } else { "<=" };
        println!("  {what}: {value:.3} (target {sign} {target}) {}", if met { "met" } else { "MISSED" });
    }
}

/// By tokens, so that it does not matter which texts fell into the window.
fn texts_a_second(seen: &Seen, mean_tokens: f64) -> f64 {
    seen.tokens as f64 / mean_tokens / seen.window.as_secs_f64()
}

/// In ms, of microseconds.
fn quantile(samples: &[u64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted[((sorted.len() as f64 * q) as usize).min(sorted.len() - 1)] as f64 / 1e3
}
