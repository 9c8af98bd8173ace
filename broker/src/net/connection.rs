//! One connection: a reading half that splits, guards and dispatches requests in the order of their arrival,
//! and a writing half that answers in the same order.
//!
//! Memory is bounded everywhere: the buffer grows as bytes arrive, a request holds its share of the broker's
//! budget while it is in work, and at most so many responses wait. Whoever hits a bound is not read from.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::StrBytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};

use super::frame::FrameSplitter;
use super::guard;
use crate::api::{self, Broker, ConnectionInfo, Frame, Reply, Request, RequestHead, RequestPermit};
use crate::storage::admission::Admission;

/// How long a connection that must end may still take its last answers.
const FAREWELL: Duration = Duration::from_secs(5);
/// Bytes of an unfinished frame that are charged to the budget in one step; fewer are not charged.
const CHARGE_STEP: usize = 256 << 10;
/// Written at once at most, in pieces.
const PIECES_MAX: usize = 256;
/// Written by one call at most, in bytes.
const WRITE_BYTES: usize = 256 << 10;

/// The budget of all requests together: how many are in work, and their bytes.
pub struct Budget {
    pub requests: Arc<Admission>,
    /// Whoever has a part of the budget and needs more of it while it is spent takes this turn, and goes on
    /// beyond the budget, alone: so those who each hold a part cannot wait for one another for ever, and the
    /// budget is passed by one request at most.
    turn: Arc<tokio::sync::Semaphore>,
}

impl Budget {
    pub fn new(requests_max: usize, bytes_max: usize) -> Budget {
        Budget {
            requests: Arc::new(Admission::new(requests_max as u64, bytes_max as u64)),
            turn: Arc::new(tokio::sync::Semaphore::new(1)),
        }
    }
}

/// A share of the budget.
struct Share {
    of: Arc<Admission>,
    requests: u64,
    bytes: u64,
    /// Kept as long as the share is.
    turn: Option<tokio::sync::OwnedSemaphorePermit>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.release(self.requests, self.bytes);
    }
}

/// Why a connection is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum End {
    /// Not yet.
    None = 0,
    Idle = 1,
    /// A frame that was begun did not go on.
    Stalled = 2,
    /// The broker stops: what is in work is answered.
    Stopping = 3,
    /// The peer takes no answers any more.
    Gone = 4,
}

/// What the listener's sweep looks at.
pub struct Activity {
    /// Milliseconds since the listener started, of the last byte that arrived.
    last_ms: AtomicU64,
    partial: AtomicBool,
    end: AtomicU8,
    ending: Notify,
    started: Instant,
}

impl Activity {
    pub fn new(started: Instant) -> Activity {
        Activity {
            last_ms: AtomicU64::new(started.elapsed().as_millis() as u64),
            partial: AtomicBool::new(false),
            end: AtomicU8::new(End::None as u8),
            ending: Notify::new(),
            started,
        }
    }

    fn touch(&self, now: Instant) {
        self.last_ms.store((now - self.started).as_millis() as u64, Ordering::Relaxed);
    }

    /// How long nothing has arrived, and whether a frame is unfinished.
    pub fn quiet(&self) -> (Duration, bool) {
        let now_ms = self.started.elapsed().as_millis() as u64;
        let quiet_ms = now_ms.saturating_sub(self.last_ms.load(Ordering::Relaxed));
        (Duration::from_millis(quiet_ms), self.partial.load(Ordering::Relaxed))
    }

    pub fn end(&self, why: End) {
        self.end.store(why as u8, Ordering::Relaxed);
        self.ending.notify_one();
    }

    fn why(&self) -> End {
        match self.end.load(Ordering::Relaxed) {
            1 => End::Idle,
            2 => End::Stalled,
            3 => End::Stopping,
            4 => End::Gone,
            _ => End::None,
        }
    }
}

/// A response on its way out.
enum Pending {
    Ready(Frame),
    Later(Pin<Box<dyn Future<Output = Option<Frame>> + Send>>),
}

/// How the reading half ended.
enum Farewell {
    /// The peer went away: nobody reads what is still to be answered.
    Gone,
    /// The connection ends, but what was accepted before is answered.
    AfterAnswers,
}

/// Serves a connection until it ends.
pub async fn serve(
    stream: TcpStream,
    conn: Arc<ConnectionInfo>,
    broker: Arc<Broker>,
    budget: Arc<Budget>,
    activity: Arc<Activity>,
) {
    let (read, write) = stream.into_split();
    let (send, receive) = mpsc::channel(broker.config.responses_per_connection.max(1));
    let mut writer = tokio::spawn({
        let (broker, activity) = (broker.clone(), activity.clone());
        async move {
            let written = write_responses(write, receive, broker).await;
            // It ends before the reading half only when the peer is gone, which then need not be waited for.
            activity.end(End::Gone);
            written
        }
    });
    let mut reader = Reader { read, conn, broker, budget, activity, send, held: None, turn: None };
    let farewell = reader.run().await;
    drop(reader);
    match farewell {
        Farewell::Gone => writer.abort(),
        Farewell::AfterAnswers => {
            if tokio::time::timeout(FAREWELL, &mut writer).await.is_err() {
                writer.abort();
            }
        }
    }
}

struct Reader {
    read: OwnedReadHalf,
    conn: Arc<ConnectionInfo>,
    broker: Arc<Broker>,
    budget: Arc<Budget>,
    activity: Arc<Activity>,
    send: mpsc::Sender<Pending>,
    /// What the bytes in the buffer hold of the budget.
    held: Option<Share>,
    turn: Option<tokio::sync::OwnedSemaphorePermit>,
}

impl Reader {
    async fn run(&mut self) -> Farewell {
        let splitter = FrameSplitter::new(self.broker.config.request_bytes_max);
        let mut buffer = BytesMut::new();
        let mut received = Instant::now();
        loop {
            loop {
                let frame = match splitter.next_frame(&mut buffer) {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(e) => return self.refuse(&e.to_string()),
                };
                if let Err(why) = self.request(frame, received).await {
                    return why;
                }
            }
            self.activity.partial.store(!buffer.is_empty(), Ordering::Relaxed);
            if let Err(e) = splitter.reserve(&mut buffer) {
                return self.refuse(&e.to_string());
            }
            self.charge(buffer.len()).await;
            let arrived = tokio::select! {
                biased;
                arrived = self.read.read_buf(&mut buffer) => arrived,
                () = self.activity.ending.notified() => return self.told_to_end(),
            };
            match arrived {
                Ok(0) => return Farewell::Gone,
                Ok(n) => {
                    self.broker.metrics.network.bytes_received.inc_by(n as u64);
                    received = Instant::now();
                    self.activity.touch(received);
                }
                Err(e) => {
                    if e.kind() != io::ErrorKind::ConnectionReset {
                        tracing::debug!(peer = %self.conn.peer, "read: {e}");
                    }
                    return Farewell::Gone;
                }
            }
        }
    }

    /// Charges the buffer for what has arrived and is in no request yet.
    async fn charge(&mut self, arrived: usize) {
        let steps = (arrived / CHARGE_STEP) as u64 * CHARGE_STEP as u64;
        let held = self.held.as_ref().map_or(0, |share| share.bytes);
        if steps < held {
            drop(self.take_held(held - steps));
        }
        if steps <= held || self.turn.is_some() {
            return;
        }
        let budget = &self.budget.requests;
        if budget.try_admit(0, steps - held) {
            match &mut self.held {
                Some(share) => share.bytes = steps,
                None => {
                    let of = budget.clone();
                    self.held = Some(Share { of, requests: 0, bytes: steps, turn: None });
                }
            }
            return;
        }
        self.broker.metrics.network.read_pauses.inc();
        self.turn = self.budget.turn.clone().acquire_owned().await.ok();
    }

    /// A part of what the buffer holds of the budget, as a share of its own.
    fn take_held(&mut self, at_most: u64) -> Share {
        let held = self.held.as_mut().map_or(0, |share| {
            let taken = share.bytes.min(at_most);
            share.bytes -= taken;
            taken
        });
        Share { of: self.budget.requests.clone(), requests: 0, bytes: held, turn: None }
    }

    /// A request's share of the budget. What its frame was charged while it arrived is a part of it, and is not
    /// given back in between.
    async fn admit(&mut self, cost: u64) -> Share {
        let mut share = self.take_held(cost);
        let rest = cost - share.bytes;
        let budget = self.budget.requests.clone();
        share.turn = self.turn.take();
        if budget.try_admit(1, rest) {
            share.turn = None;
        } else {
            self.broker.metrics.network.read_pauses.inc();
            if share.bytes == 0
                && self.held.as_ref().is_none_or(|held| held.bytes == 0)
                && share.turn.is_none()
            {
                // It holds nothing that another could wait for.
                budget.admit(1, rest).await;
            } else {
                if share.turn.is_none() {
                    share.turn = self.budget.turn.clone().acquire_owned().await.ok();
                }
                budget.force(1, rest);
            }
        }
        share.requests = 1;
        share.bytes += rest;
        share
    }

    /// One request, up to its place in the queue of responses.
    async fn request(&mut self, mut frame: Bytes, received: Instant) -> Result<(), Farewell> {
        let facts = guard::check_header(&frame).map_err(|e| self.refuse(&e.to_string()))?;
        let head = RequestHead {
            api_key: facts.api_key,
            version: facts.api_version,
            correlation_id: facts.correlation_id,
            client_id: facts.client_id.map(|id| StrBytes::from_string(id.into_owned())),
        };
        let header_bytes = facts.header_bytes;
        // A body is decoded only after its guard. What is not served is not decoded either.
        let mut cost = frame.len();
        if api::is_served(head.api_key, head.version) {
            let limits = guard::Limits::default();
            let body = guard::check_body(head.api_key, head.version, &frame[header_bytes..], &limits);
            cost += body.map_err(|e| self.refuse(&format!("{}: {e}", name_of(&head))))?.decoded_bytes;
        }
        let share = self.admit(cost as u64).await;
        frame.advance(header_bytes);
        let reply = api::dispatch(Request {
            broker: self.broker.clone(),
            conn: self.conn.clone(),
            head,
            body: frame,
            permit: RequestPermit::new(share),
            received,
        })
        .await;
        let pending = match reply {
            Reply::None => return Ok(()),
            Reply::Now(frame) => Pending::Ready(frame),
            Reply::Later(answer) => Pending::Later(answer),
            Reply::Close(why) => return Err(self.refuse(&why)),
        };
        self.send.send(pending).await.map_err(|_| Farewell::Gone)
    }

    /// The peer broke the protocol.
    fn refuse(&self, why: &str) -> Farewell {
        self.broker.metrics.network.connections_broken.inc();
        tracing::info!(peer = %self.conn.peer, listener = &*self.conn.listener, "connection closed: {why}");
        Farewell::AfterAnswers
    }

    fn told_to_end(&self) -> Farewell {
        match self.activity.why() {
            End::Idle => {
                tracing::debug!(peer = %self.conn.peer, "connection closed: idle");
                Farewell::Gone
            }
            End::Stalled => {
                self.refuse("a request was begun and did not go on");
                Farewell::Gone
            }
            End::Gone => Farewell::Gone,
            End::Stopping | End::None => Farewell::AfterAnswers,
        }
    }
}

fn name_of(head: &RequestHead) -> String {
    let name = ApiKey::try_from(head.api_key).map(api::name).unwrap_or("Other");
    format!("{name} v{}", head.version)
}

/// Writes responses in the order of their requests, as many at once as are ready.
async fn write_responses(
    mut write: OwnedWriteHalf,
    mut receive: mpsc::Receiver<Pending>,
    broker: Arc<Broker>,
) -> io::Result<()> {
    let mut out: Vec<Bytes> = Vec::new();
    let mut next: Option<Pending> = None;
    loop {
        let pending = match next.take() {
            Some(pending) => pending,
            None => match receive.recv().await {
                Some(pending) => pending,
                None => return Ok(()),
            },
        };
        let frame = match pending {
            Pending::Ready(frame) => Some(frame),
            Pending::Later(answer) => answer.await,
        };
        // No answer where one is due: the client would take the next answer for this one's.
        let Some(frame) = frame else { return Ok(()) };
        out.extend(frame.pieces);
        while out.len() < PIECES_MAX {
            match receive.try_recv() {
                Ok(Pending::Ready(frame)) => out.extend(frame.pieces),
                Ok(Pending::Later(mut answer)) => match ready_now(&mut answer) {
                    Some(Some(frame)) => out.extend(frame.pieces),
                    Some(None) => return Ok(()),
                    None => {
                        next = Some(Pending::Later(answer));
                        break;
                    }
                },
                Err(_) => break,
            }
        }
        let total: usize = out.iter().map(Bytes::len).sum();
        write_all(&mut write, &mut out).await?;
        broker.metrics.network.bytes_sent.inc_by(total as u64);
    }
}

/// The answer, if it needs no waiting.
fn ready_now<T>(answer: &mut Pin<Box<dyn Future<Output = T> + Send>>) -> Option<T> {
    match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

/// Writes all pieces. A large answer goes in parts, and others have their turn in between: the kernel's copying is the work
/// of the thread that serves them all.
async fn write_all(write: &mut OwnedWriteHalf, out: &mut Vec<Bytes>) -> io::Result<()> {
    if let [one] = &out[..]
        && one.len() <= WRITE_BYTES
    {
        write.write_all(one).await?;
        out.clear();
        return Ok(());
    }
    let mut from = 0;
    let mut turn = 0;
    while from < out.len() {
        let mut room = WRITE_BYTES;
        let slices: Vec<io::IoSlice<'_>> = out[from..]
            .iter()
            .map_while(|piece| {
                let part = piece.get(..piece.len().min(room))?;
                room -= part.len();
                (room > 0 || !part.is_empty()).then(|| io::IoSlice::new(part))
            })
            .collect();
        let mut written = write.write_vectored(&slices).await?;
        if written == 0 && out[from..].iter().any(|b| !b.is_empty()) {
            return Err(io::ErrorKind::WriteZero.into());
        }
        turn += written;
        while from < out.len() && written >= out[from].len() {
            written -= out[from].len();
            from += 1;
        }
        if from < out.len() {
            out[from].advance(written);
            if turn >= WRITE_BYTES {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
    }
    out.clear();
    Ok(())
}
