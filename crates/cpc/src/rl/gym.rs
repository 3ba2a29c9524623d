//! Environments of Gymnasium, each in a Python process of its own.
//!
//! The process runs `gym_server.py`, which this crate carries; messages are binary, with their length before them, over
//! stdin and stdout. Observations that are images of bytes are taken as they are, otherwise what the environment renders
//! (`rgb_array`) is; both are resized to the nearest pixel. Actions must be discrete. The process ends with the value.

use std::io::{ErrorKind, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use contrastive_core::rng::{Key, Purpose};
use contrastive_scenes::{Environment, Error, Result, Shape, Step};

/// What stands before the names of these environments.
pub const PREFIX: &str = "gym:";

const SCRIPT: &str = include_str!("gym_server.py");
/// Longest answer that is believed.
const LONGEST: u32 = 1 << 28;
/// How much of what Python prints is kept for an error.
const KEPT: usize = 4096;

/// One environment of Gymnasium.
pub struct GymEnvironment {
    name: String,
    shape: Shape,
    actions: usize,
    running: bool,
    child: Child,
    requests: Option<ChildStdin>,
    answers: ChildStdout,
    printed: Arc<Mutex<Vec<u8>>>,
    printer: Option<JoinHandle<()>>,
    answer: Vec<u8>,
}

impl GymEnvironment {
    /// Starts `python` and makes the environment `id` there (`CartPole-v1`), seen as frames of `shape`.
    ///
    /// # Errors
    /// [`Error::External`] with the environment's name and what Python said: no such program, no Gymnasium, no such
    /// environment, actions that are not discrete.
    pub fn start(python: &str, id: &str, shape: Shape) -> Result<Self> {
        let name = format!("{PREFIX}{id}");
        let external = |reason: String| Error::External { environment: name.clone(), reason };
        if shape.bytes() == 0 || shape.height > 4096 || shape.width > 4096 {
            return Err(external(format!("frames of {} x {} cannot be made", shape.height, shape.width)));
        }
        let mut child = Command::new(python)
            .args(["-c", SCRIPT, id, &shape.height.to_string(), &shape.width.to_string()])
            .env("PYGAME_HIDE_SUPPORT_PROMPT", "1")
            .env("SDL_VIDEODRIVER", "dummy")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| external(format!("cannot start `{python}`: {error}")))?;
        let (requests, answers, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let printed = Arc::new(Mutex::new(Vec::new()));
        let (Some(answers), Some(mut errors)) = (answers, errors) else {
            return Err(external(format!("`{python}` has no pipes")));
        };
        let printer = {
            let printed = printed.clone();
            std::thread::spawn(move || {
                let mut part = [0; 1024];
                while let Ok(n @ 1..) = errors.read(&mut part) {
                    let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
                    printed.extend_from_slice(&part[..n]);
                    let surplus = printed.len().saturating_sub(KEPT);
                    printed.drain(..surplus);
                }
            })
        };
        let mut this = Self {
            name,
            shape,
            actions: 0,
            running: false,
            child,
            requests,
            answers,
            printed,
            printer: Some(printer),
            answer: Vec::new(),
        };
        this.receive(4)?;
        this.actions = match this.answer[1..] {
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]) as usize,
            _ => 0,
        };
        if this.actions == 0 {
            return Err(this.external("it has no action".to_string()));
        }
        Ok(this)
    }

    fn external(&self, reason: String) -> Error {
        Error::External { environment: self.name.clone(), reason }
    }

    /// The process is gone: its last line says why.
    fn lost(&mut self, error: &std::io::Error) -> Error {
        self.requests = None;
        let status = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        if let Some(printer) = self.printer.take() {
            // It ends with the pipe; a panic there has lost nothing but text.
            let _ = printer.join();
        }
        let printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&printed);
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing").trim().to_string();
        drop(printed);
        let what =
            if error.kind() == ErrorKind::UnexpectedEof { "it ended".to_string() } else { error.to_string() };
        self.external(format!("Python is gone ({what}, {status}) and said: {last}"))
    }

    /// Sends a request and takes the answer, whose body must have so many bytes, into `self.answer`.
    fn ask(&mut self, kind: u8, body: &[u8], expected: usize) -> Result<()> {
        let mut message = ((1 + body.len()) as u32).to_le_bytes().to_vec();
        message.push(kind);
        message.extend_from_slice(body);
        let sent = match &mut self.requests {
            Some(requests) => requests.write_all(&message).and_then(|()| requests.flush()),
            None => Err(ErrorKind::BrokenPipe.into()),
        };
        match sent {
            Ok(()) => self.receive(expected),
            Err(error) => Err(self.lost(&error)),
        }
    }

    fn receive(&mut self, expected: usize) -> Result<()> {
        let mut length = [0; 4];
        if let Err(error) = self.answers.read_exact(&mut length) {
            return Err(self.lost(&error));
        }
        let length = u32::from_le_bytes(length);
        if !(1..=LONGEST).contains(&length) {
            return Err(self.external(format!("an answer of {length} bytes makes no sense")));
        }
        self.answer.resize(length as usize, 0);
        if let Err(error) = self.answers.read_exact(&mut self.answer) {
            return Err(self.lost(&error));
        }
        match self.answer.split_first() {
            Some((b'k', body)) if body.len() == expected => Ok(()),
            Some((b'k', body)) => {
                let reason = format!("an answer has {} bytes where {expected} were expected", body.len());
                Err(self.external(reason))
            }
            Some((b'e', text)) => {
                let text = String::from_utf8_lossy(text).split_whitespace().collect::<Vec<_>>().join(" ");
                Err(self.external(text))
            }
            _ => Err(self.external("an answer makes no sense".to_string())),
        }
    }

    fn not_running(&self) -> Error {
        Error::NotRunning { environment: self.name.clone() }
    }
}

impl Environment for GymEnvironment {
    fn name(&self) -> &str {
        &self.name
    }

    fn shape(&self) -> Shape {
        self.shape
    }

    fn actions(&self) -> usize {
        self.actions
    }

    /// Gymnasium takes one seed; here it is a hash of both numbers.
    fn reset(&mut self, seed: u64, episode: u64) -> Result<()> {
        self.running = false;
        // Some environments hand it to NumPy's old generators, which take 32 bits.
        let seed = Key::new(seed, Purpose::Data).name("gymnasium").epoch(episode).stream().bits() >> 33;
        self.ask(b'r', &seed.to_le_bytes(), 0)?;
        self.running = true;
        Ok(())
    }

    fn step(&mut self, action: usize) -> Result<Step> {
        if !self.running {
            return Err(self.not_running());
        }
        if action >= self.actions {
            return Err(Error::Action { environment: self.name.clone(), action, actions: self.actions });
        }
        self.ask(b's', &(action as u32).to_le_bytes(), 6)?;
        let &[_, a, b, c, d, terminated, truncated] = self.answer.as_slice() else {
            return Err(self.external("an answer makes no sense".to_string()));
        };
        let (terminated, truncated) = (terminated != 0, truncated != 0);
        let done = terminated || truncated;
        self.running = !done;
        Ok(Step { reward: f32::from_le_bytes([a, b, c, d]), done, truncated: truncated && !terminated })
    }

    fn observe(&mut self, pixels: &mut [u8]) -> Result<()> {
        let expected = self.shape.bytes();
        if pixels.len() != expected {
            return Err(Error::Buffer { environment: self.name.clone(), expected, got: pixels.len() });
        }
        self.ask(b'o', &[], expected)?;
        pixels.copy_from_slice(&self.answer[1..]);
        Ok(())
    }
}

impl Drop for GymEnvironment {
    fn drop(&mut self) {
        self.requests = None;
        // It may be gone already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
