//! A stand-in for the Hub's HTTP interface on the loopback device: one thread, a connection for each request.

// Programs of other crates use parts of it.
#![allow(dead_code, clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// The commit of every repository here.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What came.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The length that is announced, if any; the body's where nothing else is said.
    pub announced: Option<usize>,
}

impl Response {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { status, headers: Vec::new(), announced: Some(body.len()), body }
    }

    pub fn json(value: &Value) -> Self {
        Self::new(200, value.to_string()).with("Content-Type", "application/json")
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// The server; it ends when it is dropped.
pub struct StandIn {
    pub endpoint: String,
    pub seen: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    pub fn new(answer: impl Fn(&Request) -> Response + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, ended) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                if let Some(request) = read(&stream) {
                    let response = answer(&request);
                    let head = request.method == "HEAD";
                    log.lock().unwrap().push(request);
                    // Who asked may have gone.
                    let _ = write(stream, &response, head);
                }
            }
        });
        Self { endpoint, seen, stop, thread: Some(thread) }
    }

    /// Method and path of what came so far.
    pub fn lines(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|r| format!("{} {}", r.method, r.path)).collect()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.endpoint.trim_start_matches("http://"));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut parts = line.split_whitespace();
    let (method, path) = (parts.next()?.to_string(), parts.next()?.to_string());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_string(), value.trim().to_string()));
    }
    let mut request = Request { method, path, headers, body: Vec::new() };
    let length = request.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    request.body = vec![0; length];
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}

fn write(mut stream: TcpStream, response: &Response, head: bool) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {} Said\r\nConnection: close\r\n", response.status);
    if let Some(length) = response.announced {
        text.push_str(&format!("Content-Length: {length}\r\n"));
    }
    for (name, value) in &response.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes())?;
    if !head {
        stream.write_all(&response.body)?;
    }
    stream.flush()
}

/// The answer of a Hub that has one model repository with these files.
pub fn repository(files: Vec<(String, Vec<u8>)>) -> impl Fn(&Request) -> Response + Send + 'static {
    move |request| {
        let parts: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["api", "models", owner, name, "revision", _]) => {
                Response::json(&json!({"id": format!("{owner}/{name}"), "sha": COMMIT}))
            }
            ("POST", ["api", "models", _, _, "paths-info", COMMIT]) => {
                let asked = request.json();
                let asked = asked["paths"].as_array().cloned().unwrap_or_default();
                let there = files.iter().filter(|(name, _)| asked.contains(&Value::from(name.as_str())));
                let entry = |(name, bytes): &(String, Vec<u8>)| {
                    let oid = format!("{:040x}", bytes.len());
                    json!({"type": "file", "path": name, "oid": oid, "size": bytes.len()})
                };
                Response::json(&there.map(entry).collect())
            }
            ("HEAD" | "GET", [_, _, "resolve", COMMIT, rest @ ..]) => {
                let wanted = rest.join("/");
                match files.iter().find(|(name, _)| *name == wanted) {
                    Some((_, bytes)) => Response::new(200, bytes.clone())
                        .with("ETag", "\"content\"")
                        .with("X-Repo-Commit", COMMIT),
                    None => Response::new(404, "no such file"),
                }
            }
            _ => Response::new(404, "no such place"),
        }
    }
}
