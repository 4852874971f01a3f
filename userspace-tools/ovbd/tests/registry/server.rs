// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A server on loopback that does what a test wants, right or wrong, and remembers what it was
//! asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// No test needs more requests; a client that makes more is in a loop.
const MAX_REQUESTS: usize = 500;

/// Between two bytes of a drip.
const DRIP: Duration = Duration::from_millis(5);

/// What a client asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// Path and query.
    pub path: String,
    /// By name in small letters.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// The connection was closed in the middle of the body.
    pub broken: bool,
    /// How many requests came before this one.
    pub number: usize,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The range that is asked for: its first byte and, unless it goes to the end, its last.
    pub fn range(&self) -> Option<(usize, Option<usize>)> {
        let (first, last) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()))
    }

    /// The first byte of a range that is asked for.
    pub fn from(&self) -> Option<usize> {
        self.range().map(|(first, _)| first)
    }

    pub fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }
}

/// What happens behind the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The connection stays for the next request.
    Stay,
    /// It is closed.
    Close,
    /// Nothing, until the client closes it.
    Hang,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// What `Content-Length` says, if not the truth; with `None` in it, nothing.
    pub length: Option<Option<u64>>,
    /// Everything comes byte by byte, with pauses, and so takes far longer than any client waits.
    pub drip: bool,
    pub then: Then,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            length: None,
            drip: false,
            then: Then::Stay,
        }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The same, but only the first `length` bytes arrive.
    pub fn cut(mut self, length: usize, then: Then) -> Self {
        self.length = Some(Some(self.body.len() as u64));
        self.body.truncate(length);
        self.then = then;
        self
    }

    fn write(&self, stream: &mut TcpStream, head_only: bool) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        match self.length.unwrap_or(Some(self.body.len() as u64)) {
            Some(length) => head += &format!("Content-Length: {length}\r\n"),
            None => head += "Connection: close\r\n",
        }
        head += "\r\n";
        if self.drip {
            return drip(stream, &[head.as_bytes(), &self.body].concat());
        }
        stream.write_all(head.as_bytes())?;
        if !head_only {
            stream.write_all(&self.body)?;
        }
        Ok(())
    }
}

/// Writes until the client has had enough and closes the connection.
fn drip(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte])?;
        thread::sleep(DRIP);
    }
    Ok(())
}

/// A server, as long as it lives.
pub struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Serves what `answer` says, each connection on a thread of its own.
    pub fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_breaking(|_| None, answer)
    }

    /// The same, but where `breaks` says so for the head of a request, the connection is closed
    /// behind so many bytes of the body. What `answer` says then is not sent.
    pub fn start_breaking(
        breaks: impl Fn(&Asked) -> Option<usize> + Send + Sync + 'static,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (record, stopped) = (asked.clone(), stop.clone());
        let (breaks, answer) = (Arc::new(breaks), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let (record, breaks, answer) = (record.clone(), breaks.clone(), answer.clone());
                thread::spawn(move || serve(stream.unwrap(), &record, &*breaks, &*answer));
            }
        });
        Self {
            address,
            asked,
            stop,
        }
    }

    /// `127.0.0.1` and the port.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How often something was asked.
    pub fn count(&self, what: impl Fn(&Asked) -> bool) -> usize {
        self.asked().iter().filter(|asked| what(asked)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

/// Until the client has gone: then reading or writing fails, and that is how it ends.
fn serve(
    mut stream: TcpStream,
    record: &Mutex<Vec<Asked>>,
    breaks: &dyn Fn(&Asked) -> Option<usize>,
    answer: &dyn Fn(&Asked) -> Reply,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(mut asked) = read(&mut reader, breaks) {
        let mut all = record.lock().unwrap();
        asked.number = all.len();
        let too_many = all.len() >= MAX_REQUESTS;
        all.push(asked.clone());
        drop(all);
        let reply = match too_many {
            true => Reply::new(418, "too many requests for a test"),
            false => answer(&asked),
        };
        if asked.broken || reply.write(&mut stream, asked.method == "HEAD").is_err() {
            return;
        }
        match reply.then {
            Then::Stay if reply.length != Some(None) => {}
            Then::Stay | Then::Close => return,
            Then::Hang => {
                let _ = reader.read(&mut [0]);
                return;
            }
        }
    }
}

fn read(
    reader: &mut BufReader<TcpStream>,
    breaks: &dyn Fn(&Asked) -> Option<usize>,
) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |l| l.parse().unwrap());
    let mut asked = Asked {
        method,
        path,
        headers,
        body: Vec::new(),
        broken: false,
        number: 0,
    };
    let most = breaks(&asked);
    asked.broken = most.is_some();
    asked.body = vec![0; most.unwrap_or(length).min(length)];
    reader.read_exact(&mut asked.body).ok()?;
    Some(asked)
}
