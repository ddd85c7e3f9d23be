//! Clients in a process of their own: they share the machine with the sidecar, as an application does, and their cost is counted against it.
//!
//! Enters: a file of texts, an address. Leaves: one line of figures. Never: a new connection for a request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What to do.
#[derive(Debug, Clone)]
pub(crate) struct Plan<'a> {
    pub(crate) address: &'a str,
    /// One text a line, after its tokens and a tab.
    pub(crate) texts: &'a Path,
    pub(crate) clients: usize,
    /// Requests before it are not counted.
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
    /// A further client that sends one short text again and again; its latencies come back.
    pub(crate) short: bool,
}

/// What was seen in the window.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) tokens: u64,
    pub(crate) window: Duration,
    /// CPU seconds of the clients, a second.
    pub(crate) cpu: f64,
    /// Of the short client, or else of all; microseconds.
    pub(crate) latencies: Vec<u64>,
}

/// Runs a plan in a child of this program.
pub(crate) fn run(plan: &Plan<'_>) -> Seen {
    let program = std::env::current_exe().expect("this program");
    let number = |it: usize| it.to_string();
    let mut command = Command::new(program);
    command.arg("--load").arg(plan.address).arg(plan.texts).arg(number(plan.clients)).arg(number(plan.warm_up.as_millis() as usize));
    command.arg(number(plan.window.as_millis() as usize)).arg(number(usize::from(plan.short)));
    let output = command.stderr(Stdio::inherit()).output().expect("clients");
    assert!(output.status.success(), "the clients failed");
    let text = String::from_utf8(output.stdout).expect("figures");
    let mut fields = text.split_whitespace();
    let mut next = || fields.next().expect("a figure").to_owned();
    let tokens = next().parse().expect("tokens");
    let window = Duration::from_secs_f64(next().parse().expect("seconds"));
    let cpu = next().parse().expect("cpu");
    Seen { tokens, window, cpu, latencies: fields.map(|it| it.parse().expect("a latency")).collect() }
}

/// The child's side.
pub(crate) fn child(arguments: &[String]) {
    let [address, texts, clients, warm_up, window, short] = arguments else { panic!("six arguments, not {arguments:?}") };
    let texts = std::fs::File::open(texts).expect("texts");
    let parse = |line: String| {
        let (tokens, text) = line.split_once('\t').expect("a tab");
        (tokens.parse::<u64>().expect("tokens"), request(text))
    };
    let requests: Vec<(u64, Vec<u8>)> = BufReader::new(texts).lines().map(|it| parse(it.expect("a line"))).collect();
    let number = |it: &str| it.parse::<u64>().expect("a number");
    let from = Instant::now() + Duration::from_millis(number(warm_up));
    let until = from + Duration::from_millis(number(window));
    let counts = Counts::default();
    let short = short == "1";
    std::thread::scope(|scope| {
        for _ in 0..number(clients) {
            scope.spawn(|| counts.client(address, &requests, (from, until), !short));
        }
        if short {
            let text = [(0, request("when does the museum open"))];
            let counts = &counts;
            scope.spawn(move || counts.client(address, &text, (from, until), true));
        }
        std::thread::sleep(from.saturating_duration_since(Instant::now()));
        let cpu = cpu_seconds("self");
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        counts.cpu_us.store(((cpu_seconds("self") - cpu) * 1e6) as u64, Ordering::Relaxed);
    });
    let window = (until - from).as_secs_f64();
    let cpu = counts.cpu_us.load(Ordering::Relaxed) as f64 / 1e6 / window;
    print!("{} {window} {cpu}", counts.tokens.load(Ordering::Relaxed));
    for latency in counts.latencies.lock().expect("latencies").iter() {
        print!(" {latency}");
    }
    println!();
}

#[derive(Default)]
struct Counts {
    next: AtomicUsize,
    tokens: AtomicU64,
    cpu_us: AtomicU64,
    latencies: Mutex<Vec<u64>>,
}

impl Counts {
    /// Sends the next text of all clients, waits for its answer, and again.
    fn client(&self, address: &str, requests: &[(u64, Vec<u8>)], (from, until): (Instant, Instant), timed: bool) {
        let mut connection = Connection::open(address);
        let mut latencies = Vec::new();
        let mut now = Instant::now();
        while now < until {
            let (tokens, request) = &requests[self.next.fetch_add(1, Ordering::Relaxed) % requests.len()];
            let sent = now;
            connection.exchange(request);
            now = Instant::now();
            if now >= from && now < until {
                self.tokens.fetch_add(*tokens, Ordering::Relaxed);
                if timed {
                    latencies.push((now - sent).as_micros() as u64);
                }
            }
        }
        self.latencies.lock().expect("latencies").extend(latencies);
    }
}

fn request(text: &str) -> Vec<u8> {
    let body = serde_json::json!({ "text": text }).to_string();
    let length = body.len();
    format!("POST /api/v1/embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// A kept connection.
pub(crate) struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        Self { stream, answer: vec![0; 1 << 20] }
    }

    /// Sends a request and reads its answer, which must be 200.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> &[u8] {
        self.stream.write_all(request).expect("a request sent");
        let mut read = 0;
        loop {
            let got = self.stream.read(&mut self.answer[read..]).expect("an answer");
            assert!(got > 0, "the connection was closed");
            read += got;
            if let Some(body) = complete(&self.answer[..read]) {
                return &self.answer[body..read];
            }
        }
    }
}

/// Where the body begins, once all of it is here.
fn complete(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|it| it == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    assert!(text.starts_with("http/1.1 200"), "{text}");
    let length = text.lines().find_map(|it| it.strip_prefix("content-length: ")).and_then(|it| it.parse::<usize>().ok());
    (answer.len() >= head + 4 + length.expect("a content-length")).then_some(head + 4)
}

/// User and system time of a process.
pub(crate) fn cpu_seconds(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("its stat");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    // `utime` and `stime`, in hundredths.
    [fields[11], fields[12]].iter().map(|it| it.parse::<f64>().expect("ticks") / 100.0).sum()
}
