//! What the sidecar adds to a lone request: p50 of `POST /api/v1/embed` over loopback minus p50 of the engine alone.
//!
//! Enters: an 18-word text. Leaves: two medians and their difference; exit 1 when it is over the target. The HTTP side holds everything a
//! client waits for, tokenizer and JSON included; the engine side runs the same token batch in this process, nothing else. The two take
//! turns, so both meet the same machine. `cargo bench -p akidb-sidecar --bench http_overhead`

#[path = "../tests/it/inference/rig.rs"]
mod rig;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use akidb_sidecar::batcher::BatcherConfig;
use akidb_sidecar::engine::{TokenBatch, onnx};

use rig::{Rig, engine_spec};

const TEXT: &str = "The museum opens at nine on weekdays and stays closed on Mondays, except when Monday is a holiday";
const ROUNDS: usize = 1_000;
const WARM_UP: usize = 100;
/// As `server-timing` names them.
const STAGES: [&str; 3] = ["tokenize", "queue", "infer"];
const TARGET: Duration = Duration::from_micros(300);

fn main() -> ExitCode {
    // `cargo test` builds benches too, and passes `--test` when it runs them.
    if std::env::args().any(|it| it == "--test") {
        return ExitCode::SUCCESS;
    }
    let rig = Rig::start(BatcherConfig::default());
    let mut engine = onnx::load(&engine_spec(&rig.manifest)).expect("an engine");
    let encoded = rig.runtime.block_on(rig.tokenizer.encode(vec![TEXT.to_owned()], true)).expect("tokens");
    let ids: Vec<i64> = encoded[0].ids.iter().map(|it| i64::from(*it)).collect();
    let batch = TokenBatch { rows: 1, tokens: ids.len(), mask: vec![1; ids.len()], ids };
    let mut client = Client::connect(&rig);
    let (mut http, mut alone, mut empty, mut stages) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..WARM_UP + ROUNDS {
        let over_http = timed(|| client.embed());
        let stage = client.stages();
        let bare = timed(|| client.health());
        let in_process = timed(|| drop(engine.run(&batch).expect("vectors")));
        if round >= WARM_UP {
            http.push(over_http);
            alone.push(in_process);
            empty.push(bare);
            stages.push(stage);
        }
    }
    for (i, stage) in STAGES.iter().enumerate() {
        let samples = stages.iter().map(|it| it[i]).collect();
        println!("  of which {stage:<8} {:8.3} ms", p50(samples).as_secs_f64() * 1e3);
    }
    println!("  an empty answer    {:8.3} ms (GET /healthz, the same connection)", p50(empty).as_secs_f64() * 1e3);
    report(p50(http), p50(alone), batch.tokens)
}

fn report(http: Duration, alone: Duration, tokens: usize) -> ExitCode {
    let ms = |it: Duration| it.as_secs_f64() * 1e3;
    let overhead = http.saturating_sub(alone);
    println!("text: {} words, {tokens} tokens; {ROUNDS} rounds", TEXT.split_whitespace().count());
    println!("p50 over HTTP     {:8.3} ms", ms(http));
    println!("p50 engine alone  {:8.3} ms", ms(alone));
    println!("overhead          {:8.3} ms (target <= {:.1} ms)", ms(overhead), ms(TARGET));
    if overhead <= TARGET { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn timed(run: impl FnOnce()) -> Duration {
    let from = Instant::now();
    run();
    from.elapsed()
}

fn p50(mut samples: Vec<Duration>) -> Duration {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

/// A kept connection that writes one request and reads one answer; lean, so that the client's own time hardly counts.
struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Client {
    fn connect(rig: &Rig) -> Self {
        let stream = TcpStream::connect(rig.address).expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        let body = serde_json::json!({ "text": TEXT }).to_string();
        let length = body.len();
        let request =
            format!("POST /api/v1/embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}");
        Self { stream, request: request.into_bytes(), answer: vec![0; 64 * 1024] }
    }

    fn stages(&self) -> [Duration; 3] {
        let answer = String::from_utf8_lossy(&self.answer);
        STAGES.map(|it| stage(&answer, it))
    }

    fn embed(&mut self) {
        self.stream.write_all(&self.request).expect("a request sent");
        self.read();
    }

    fn health(&mut self) {
        self.stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").expect("a request sent");
        self.read();
    }

    fn read(&mut self) {
        let mut read = 0;
        loop {
            read += self.stream.read(&mut self.answer[read..]).expect("an answer");
            if complete(&self.answer[..read]) {
                return;
            }
        }
    }
}

/// Time of a stage, from the answer's `server-timing`.
fn stage(answer: &str, name: &str) -> Duration {
    let after = answer.split_once(&format!("{name};dur=")).expect("a stage").1;
    let number: String = after.chars().take_while(|it| it.is_ascii_digit() || *it == '.').collect();
    Duration::from_secs_f64(number.parse::<f64>().expect("milliseconds") / 1e3)
}

/// Whether head and body are here.
fn complete(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|it| it == b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    assert!(text.starts_with("http/1.1 200"), "{text}");
    let length = text.lines().find_map(|it| it.strip_prefix("content-length: ")).and_then(|it| it.parse::<usize>().ok());
    answer.len() >= head + 4 + length.expect("a content-length")
}
