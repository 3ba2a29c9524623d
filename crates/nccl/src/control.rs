//! The connections of all ranks to rank 0: where they meet, and where they agree on every call.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use contrastive_core::Result;

use crate::wire::{Fault, receive, send};
use crate::{Failure, Launch};

/// What both sides say first, so that neither takes a stranger for a rank.
const MAGIC: &[u8; 8] = b"ctrstv-1";

/// How long rank 0 listens to one who connects and says nothing.
const SILENCE: Duration = Duration::from_secs(2);

/// This rank's connections: rank 0 has one to each of the others, they have one to rank 0.
#[derive(Debug)]
pub struct Control {
    rank: usize,
    size: usize,
    timeout: Duration,
    /// In rank order, from rank 1, on rank 0.
    links: Vec<TcpStream>,
}

impl Control {
    /// Meets the others. `timeout` is how long a rank waits for the others, here and in every call; all ranks have given
    /// up after twice that time.
    ///
    /// # Errors
    /// A rank that did not come, comes twice or believes in another number of ranks; an address that cannot be used.
    pub fn join(launch: &Launch, timeout: Duration) -> Result<Self> {
        let mut control =
            Self { rank: launch.rank, size: launch.size, timeout, links: Vec::with_capacity(launch.size) };
        if launch.size > 1 {
            if launch.rank == 0 { control.listen(launch)? } else { control.connect(launch)? }
        }
        Ok(control)
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        self.size
    }

    fn listen(&mut self, launch: &Launch) -> Result<(), Failure> {
        let place = format!("{}:{}", launch.address, launch.port);
        let listener = TcpListener::bind(own_address(launch)).map_err(|e| {
            Failure::of(0, format!("cannot listen at {place} ({e}): set MASTER_PORT to a free port"))
        })?;
        let broken = |e: std::io::Error| Failure::of(0, format!("listening at {place}: {e}"));
        listener.set_nonblocking(true).map_err(broken)?;
        let until = Instant::now() + self.timeout;
        let mut links: Vec<Option<TcpStream>> = (1..self.size).map(|_| None).collect();
        let verdict = loop {
            let Some(missing) = links.iter().position(Option::is_none) else { break Ok(()) };
            match listener.accept() {
                Ok((link, _)) => {
                    if let Err(failure) = self.greet(link, &mut links, until) {
                        break Err(failure);
                    }
                }
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                Err(_) => break Err(self.late(missing + 1, &format!("the rendezvous at {place}"), 1)),
            }
        };
        self.links = links.into_iter().flatten().collect();
        self.tell(&verdict);
        verdict
    }

    /// Takes in one who connected. A stranger is sent away; a rank that does not fit ends the rendezvous.
    fn greet(&self, link: TcpStream, links: &mut [Option<TcpStream>], until: Instant) -> Result<(), Failure> {
        let until = until.min(Instant::now() + SILENCE);
        let prepared = link.set_nonblocking(false).is_ok()
            && link.set_nodelay(true).is_ok()
            && link.set_write_timeout(Some(self.timeout)).is_ok();
        let hello = if prepared { receive(&link, until).ok() } else { None };
        let Some((rank, size)) = hello.as_deref().and_then(read_hello) else { return Ok(()) };
        if size != self.size {
            let failure = Failure::of(rank, format!("is one of {size} ranks, rank 0 one of {}", self.size));
            // It hears why even though it is no rank of ours.
            send(&link, &spoken(&Err(failure.clone()))).unwrap_or(());
            return Err(failure);
        }
        match rank.checked_sub(1).and_then(|at| links.get_mut(at)) {
            Some(place @ None) => *place = Some(link),
            _ => return Err(Failure::of(rank, "came twice to the rendezvous")),
        }
        Ok(())
    }

    fn connect(&mut self, launch: &Launch) -> Result<(), Failure> {
        let place = format!("{}:{}", launch.address, launch.port);
        let until = Instant::now() + self.timeout;
        let link = loop {
            let attempt = (launch.address.as_str(), launch.port).to_socket_addrs().and_then(|addresses| {
                let mut last = std::io::Error::other("the name has no address");
                for address in addresses {
                    match TcpStream::connect_timeout(&address, SILENCE) {
                        Ok(link) => return Ok(link),
                        Err(e) => last = e,
                    }
                }
                Err(last)
            });
            match attempt {
                Ok(link) => break link,
                // Rank 0 may not be there yet.
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(50)),
                Err(e) => {
                    let seconds = self.timeout.as_secs_f32();
                    return Err(Failure::of(0, format!("not reached at {place} within {seconds} s: {e}")));
                }
            }
        };
        let what = format!("the rendezvous at {place}");
        let said = (|| {
            link.set_nodelay(true)?;
            link.set_write_timeout(Some(self.timeout))?;
            send(&link, &hello(self.rank, self.size))?;
            receive(&link, Instant::now() + self.timeout * 2)
        })();
        heard(&said.map_err(|fault| self.failed(0, &what, fault, 2))?, &what)?;
        self.links.push(link);
        Ok(())
    }

    /// Returns when all ranks have come to the same call. `text` says name and shape.
    ///
    /// # Errors
    /// The rank that did not come in time, is gone or said something else; the same one on all ranks that can be told.
    pub fn agree(&mut self, text: &str) -> Result<(), Failure> {
        if self.size == 1 {
            return Ok(());
        }
        if self.rank == 0 {
            let verdict = self.collect(text);
            let told = self.tell(&verdict);
            return verdict.and_then(|()| match told {
                Some(rank) => Err(Failure::of(rank, format!("left before {text}"))),
                None => Ok(()),
            });
        }
        let link = &self.links[0];
        let said = send(link, text.as_bytes())
            // Rank 0 may have begun to wait for another one as late as that.
            .and_then(|()| receive(link, Instant::now() + self.timeout * 2));
        heard(&said.map_err(|fault| self.failed(0, text, fault, 2))?, text)
    }

    /// What rank 0 brought, on all ranks.
    ///
    /// # Errors
    /// A rank that is gone.
    pub fn share(&mut self, text: &str, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        if self.rank == 0 {
            for (rank, link) in (1..).zip(&self.links) {
                send(link, bytes).map_err(|fault| self.failed(rank, text, fault, 1))?;
            }
            return Ok(bytes.to_vec());
        }
        receive(&self.links[0], Instant::now() + self.timeout * 2)
            .map_err(|fault| self.failed(0, text, fault, 2))
    }

    fn collect(&self, text: &str) -> Result<(), Failure> {
        let until = Instant::now() + self.timeout;
        for (rank, link) in (1..).zip(&self.links) {
            let other = receive(link, until).map_err(|fault| self.failed(rank, text, fault, 1))?;
            if other != text.as_bytes() {
                let other = String::from_utf8_lossy(&other);
                return Err(Failure::of(rank, format!("called {other} where rank 0 called {text}")));
            }
        }
        Ok(())
    }

    /// Tells all others, and gives the first that cannot be told.
    fn tell(&self, verdict: &Result<(), Failure>) -> Option<usize> {
        let said = spoken(verdict);
        let told = (1..).zip(&self.links).map(|(rank, link)| (rank, send(link, &said)));
        told.filter_map(|(rank, sent)| sent.is_err().then_some(rank)).collect::<Vec<_>>().first().copied()
    }

    fn late(&self, rank: usize, text: &str, times: u32) -> Failure {
        let seconds = (self.timeout * times).as_secs_f32();
        Failure::of(rank, format!("did not come to {text} within {seconds} s"))
    }

    fn failed(&self, rank: usize, text: &str, fault: Fault, times: u32) -> Failure {
        match fault {
            Fault::Late => self.late(rank, text, times),
            Fault::Gone => Failure::of(rank, format!("left before {text}")),
            Fault::Other(e) => Failure::of(rank, format!("lost before {text}: {e}")),
        }
    }
}

/// Where rank 0 listens: on this machine only if that is what the address says. The address itself is not taken, as a
/// machine's own name may stand for its loopback there.
fn own_address(launch: &Launch) -> SocketAddr {
    let ip = match launch.address.parse::<IpAddr>() {
        Ok(ip) if ip.is_loopback() => ip,
        Ok(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) if launch.address == "localhost" => Ipv4Addr::LOCALHOST.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, launch.port)
}

fn hello(rank: usize, size: usize) -> Vec<u8> {
    [&MAGIC[..], &(rank as u32).to_le_bytes(), &(size as u32).to_le_bytes()].concat()
}

fn read_hello(bytes: &[u8]) -> Option<(usize, usize)> {
    let (rank, size) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
    let number = |bytes: [u8; 4]| u32::from_le_bytes(bytes) as usize;
    Some((number(*rank), number(size.try_into().ok()?)))
}

/// A verdict as bytes.
fn spoken(verdict: &Result<(), Failure>) -> Vec<u8> {
    let text = match verdict {
        Ok(()) => String::new(),
        Err(failure) => format!("{} {}", failure.rank, failure.reason),
    };
    [&MAGIC[..], text.as_bytes()].concat()
}

/// A verdict of rank 0 about `text`.
fn heard(bytes: &[u8], text: &str) -> Result<(), Failure> {
    let Some(said) = bytes.strip_prefix(MAGIC) else {
        return Err(Failure::of(0, format!("something else answers in its place at {text}")));
    };
    let said = String::from_utf8_lossy(said);
    match said.split_once(' ') {
        None => Ok(()),
        Some((rank, reason)) => Err(Failure::of(rank.parse().unwrap_or(0), reason)),
    }
}
