//! Fetch (1): records from many partitions at once, waiting for them where there are too few.
//!
//! A request that waits holds no permit. It reads once, then sleeps until its partitions have moved far
//! enough or its time is up, and reads again.

mod encode;
mod read;
mod session;
mod wait;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chronik_core::ids::BrokerId;
use chronik_core::metadata::MetadataImage;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::messages::fetch_request::FetchRequest;

use super::{
    Api, Broker, Frame, FrameError, ISOLATION_LEVELS, READ_COMMITTED, Reply, Request, RequestPermit, text,
};
use encode::{Endpoint, FetchAnswer, PartitionAnswer, encode};
use read::{Pass, Reader, read_all};
use session::{Asked, Context, PartitionKey, TopicKey, Wanted, answer};

pub use session::FetchSessions;

pub const API: Api = Api { key: ApiKey::Fetch, min: 4, max: 18, serve: super::Serve::Call(serve) };

/// A request may have to stand behind the long poll of another on its connection. Up to so many bytes, it
/// holds no permit meanwhile; beyond, it answers for its memory.
const SMALL: usize = 64 << 10;

/// The first version that names topics by id.
const BY_ID: i16 = 13;

fn serve(mut request: Request) -> Reply {
    if request.body.len() <= SMALL {
        request.permit = RequestPermit::none();
    }
    let body: FetchRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    if !ISOLATION_LEVELS.contains(&body.isolation_level) {
        return refused(&request, whole(&body, version, ResponseError::InvalidRequest));
    }
    let asked = match version {
        ..7 => Asked { session_id: 0, epoch: -1, by_id: false },
        _ => Asked { session_id: body.session_id, epoch: body.session_epoch, by_id: version >= BY_ID },
    };
    let replica = if version >= 15 { body.replica_state.replica_id.0 } else { body.replica_id.0 };
    let reader = Reader {
        replica: (replica >= 0).then_some(BrokerId(replica)),
        read_committed: body.isolation_level == READ_COMMITTED,
        max_bytes: i64::from(body.max_bytes)
            .min(i64::try_from(request.broker.config.fetch_bytes_max).unwrap_or(i64::MAX)),
    };
    let context = request.broker.fetch_sessions.begin(
        asked,
        wanted(&body, version),
        &forgotten(&body, version),
        Instant::now(),
    );
    if let Context::Refused(error) = context {
        return refused(&request, FetchAnswer { error_code: error.code(), ..FetchAnswer::default() });
    }
    let deadline = request.received + Duration::from_millis(u64::try_from(body.max_wait_ms).unwrap_or(0));
    // More than a response may hold need not be waited for.
    let min_bytes = usize::try_from(i64::from(body.min_bytes).min(reader.max_bytes)).unwrap_or(0);
    Reply::Later(Box::pin(async move {
        let head = request.head.clone();
        let broker = request.broker.clone();
        let received = request.received;
        let frame = fetch(request, context, reader, min_bytes, deadline).await;
        if let Some(metrics) = broker.metrics.api(head.api_key) {
            metrics.time.observe_since(received);
        }
        frame.map_err(|e| tracing::error!(version = head.version, "fetch: {e}")).ok()
    }))
}

fn refused(request: &Request, answer: FetchAnswer) -> Reply {
    request.broker.metrics.error(API.key as i16, answer.error_code);
    match encode(answer, request.head.correlation_id, request.head.version) {
        Ok(frame) => Reply::Now(frame),
        Err(e) => Reply::Close(e.to_string()),
    }
}

/// What Kafka answers when a request as a whole is at fault: up to the version that names topics by id, the error stands in
/// each partition, too.
fn whole(body: &FetchRequest, version: i16, error: ResponseError) -> FetchAnswer {
    let topics = body.topics.iter().filter(|_| version < BY_ID).map(|topic| {
        let refused =
            |index| PartitionAnswer { aborted: Some(Vec::new()), ..PartitionAnswer::refused(index, error) };
        let partitions = topic.partitions.iter().map(|p| refused(p.partition)).collect();
        (TopicKey::Name(topic.topic.clone()), partitions)
    });
    let topics = topics.collect();
    FetchAnswer { error_code: error.code(), session_id: body.session_id, topics, endpoints: Vec::new() }
}

async fn fetch(
    request: Request,
    context: Context,
    reader: Reader,
    min_bytes: usize,
    deadline: Instant,
) -> Result<Frame, FrameError> {
    let Request { broker, conn, head, mut permit, .. } = request;
    let none = Vec::new();
    let wanted = match &context {
        Context::Sessionless(wanted) | Context::Full { wanted, .. } | Context::Incremental { wanted, .. } => {
            wanted
        }
        Context::Refused(_) => &none,
    };
    let (pass, image) = loop {
        let image = broker.metadata.image();
        let mut pass = read_all(&broker, &image, wanted, reader).await;
        let enough = pass.bytes >= min_bytes || pass.urgent || wanted.is_empty();
        if enough || deadline <= Instant::now() {
            break (pass, image);
        }
        // Nothing is held while waiting: no permit, and no record bytes, which pin their buffers.
        drop(std::mem::take(&mut permit));
        pass.results.iter_mut().for_each(|r| r.answer.records.clear());
        wait::for_more(&broker, &image, &pass, min_bytes, deadline).await;
    };
    broker.metrics.fetched_bytes.inc_by(pass.bytes as u64);
    for result in &pass.results {
        broker.metrics.error(API.key as i16, result.answer.error_code);
    }
    let mut answered = compose(&broker, context, pass);
    if head.version >= 16 {
        // Other brokers know where they are.
        if reader.replica.is_none() {
            answered.endpoints = endpoints(&answered, &image, &conn.listener);
        }
    } else {
        // The leader's name alone came with version 12, but Kafka sends it only with its address.
        answered.topics.iter_mut().flat_map(|(_, p)| p).for_each(|p| p.current_leader = None);
    }
    encode(answered, head.correlation_id, head.version)
}

/// Leaves out what the session's client knows already, and puts the partitions under their topics.
fn compose(broker: &Arc<Broker>, context: Context, pass: Pass) -> FetchAnswer {
    let told: Vec<_> = pass.results.iter().map(|r| r.told()).collect();
    let (session_id, wanted, tell) = match context {
        Context::Refused(_) => (0, Vec::new(), Vec::new()),
        Context::Sessionless(wanted) => (0, wanted, vec![true; told.len()]),
        Context::Full { wanted, by_id } => {
            let memory = wanted.iter().cloned().zip(told).collect();
            let id = broker.fetch_sessions.create(by_id, memory, Instant::now());
            let tell = vec![true; wanted.len()];
            (id, wanted, tell)
        }
        Context::Incremental { session, epoch, wanted } => {
            let keyed: Vec<_> = wanted.iter().map(|w| &w.key).zip(told).collect();
            match answer(&session, epoch, &keyed) {
                Ok((id, tell)) => (id, wanted, tell),
                Err(e) => {
                    broker.metrics.error(API.key as i16, e.code());
                    return FetchAnswer { error_code: e.code(), ..FetchAnswer::default() };
                }
            }
        }
    };
    let told = wanted.into_iter().zip(pass.results).zip(tell).filter(|(_, tell)| *tell);
    let mut told: Vec<_> = told.map(|((wanted, result), _)| (wanted.key.topic, result.answer)).collect();
    // As in Kafka, what nobody knows comes behind what was read.
    told.sort_by_key(|(_, answer)| answer.is_of_nobody());
    let mut topics: Vec<(TopicKey, Vec<PartitionAnswer>)> = Vec::new();
    for (key, answer) in told {
        match topics.last_mut() {
            Some((topic, partitions)) if *topic == key => partitions.push(answer),
            _ => topics.push((key, vec![answer])),
        }
    }
    FetchAnswer { error_code: 0, session_id, topics, endpoints: Vec::new() }
}

/// What a request wants: each partition once, as it is named last.
fn wanted(body: &FetchRequest, version: i16) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = Vec::new();
    let mut places: HashMap<PartitionKey, usize> = HashMap::new();
    for topic in &body.topics {
        for p in &topic.partitions {
            let topic = match version {
                BY_ID.. => TopicKey::Id(topic.topic_id),
                _ => TopicKey::Name(topic.topic.clone()),
            };
            let wanted = Wanted {
                key: PartitionKey { topic, partition: p.partition },
                offset: p.fetch_offset,
                max_bytes: p.partition_max_bytes,
                current_leader_epoch: if version >= 9 { p.current_leader_epoch } else { -1 },
                last_fetched_epoch: if version >= 12 { p.last_fetched_epoch } else { -1 },
            };
            match places.get(&wanted.key).and_then(|at| all.get_mut(*at)) {
                Some(earlier) => *earlier = wanted,
                None => {
                    places.insert(wanted.key.clone(), all.len());
                    all.push(wanted);
                }
            }
        }
    }
    all
}

fn forgotten(body: &FetchRequest, version: i16) -> Vec<PartitionKey> {
    let topics = body.forgotten_topics_data.iter();
    let keys = topics.flat_map(|topic| {
        topic.partitions.iter().map(move |partition| PartitionKey {
            topic: match version {
                BY_ID.. => TopicKey::Id(topic.topic_id),
                _ => TopicKey::Name(topic.topic.clone()),
            },
            partition: *partition,
        })
    });
    keys.collect()
}

/// Where the leaders are that this answer names.
fn endpoints(answered: &FetchAnswer, image: &MetadataImage, listener: &str) -> Vec<Endpoint> {
    let partitions = answered.topics.iter().flat_map(|(_, p)| p);
    let mut leaders: Vec<i32> = partitions.filter_map(|p| Some(p.current_leader?.0)).collect();
    leaders.sort_unstable();
    leaders.dedup();
    let endpoint = |id: i32| {
        let broker = image.broker(BrokerId(id)).filter(|b| !b.fenced)?;
        let address = broker.listener(listener)?;
        Some(Endpoint {
            node_id: id,
            host: text(address.host.as_str()),
            port: i32::from(address.port),
            rack: broker.rack.as_deref().map(text),
        })
    };
    leaders.into_iter().filter_map(endpoint).collect()
}

#[cfg(test)]
mod tests;
