//! Topics, and members of groups of the consumer protocol.

use std::collections::BTreeSet;

use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;

pub use super::super::super::*;
pub use super::super::house::*;
use crate::ids::{BrokerId, LeaderEpoch, PartitionEpoch, TopicId};
use crate::metadata::MetadataRecord;

/// The id of a topic of this name.
pub fn topic_id(name: &str) -> TopicId {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    TopicId(Uuid::from_bytes(bytes))
}

fn topic_of(id: Uuid) -> String {
    let name = id.into_bytes().into_iter().take_while(|byte| *byte != 0).collect();
    String::from_utf8(name).unwrap()
}

/// Topic and partition.
pub type Owned = BTreeSet<(String, i32)>;

pub fn owned(partitions: &[(&str, i32)]) -> Owned {
    partitions.iter().map(|(topic, partition)| (topic.to_string(), *partition)).collect()
}

impl House {
    /// With these topics, by name and number of partitions.
    pub fn with_topics(topics: &[(&str, i32)]) -> House {
        let mut house = House::new();
        house.set_topics(topics);
        house
    }

    /// No time passes between two targets.
    pub fn hasty(topics: &[(&str, i32)]) -> House {
        let config = GroupConfig { consumer_assignment_interval_ms: 0, ..GroupConfig::default() };
        let mut house = House::with(config);
        house.set_topics(topics);
        house
    }

    /// From now on there are these, and no others.
    pub fn set_topics(&mut self, topics: &[(&str, i32)]) {
        let mut records = Vec::new();
        for (name, partitions) in topics {
            let topic_id = topic_id(name);
            records.push(MetadataRecord::Topic { name: name.to_string(), topic_id });
            records.extend((0..*partitions).map(|partition| MetadataRecord::Partition {
                topic_id,
                partition,
                replicas: vec![BrokerId(1)],
                isr: vec![BrokerId(1)],
                elr: Vec::new(),
                leader: BrokerId(1),
                leader_epoch: LeaderEpoch(0),
                partition_epoch: PartitionEpoch(0),
            }));
        }
        let offset = self.image.offset() + 1;
        self.image = Arc::new(MetadataImage::from_records(Arc::default(), offset, &records).unwrap());
        let step = self.shard.metadata(self.now_ms, self.image.clone());
        self.take(step);
    }

    pub fn beat(&mut self, beat: Beat) -> ConsumerGroupHeartbeatResponse {
        let caller = Caller { client_id: "client".to_string(), client_host: "/127.0.0.1".to_string() };
        let ticket = self.call(Call::ConsumerGroupHeartbeat(beat.request, beat.version, caller));
        match self.answer(ticket) {
            Answer::ConsumerGroupHeartbeat(response) => response,
            other => panic!("{other:?}"),
        }
    }

    pub fn describe_consumers(&mut self) -> DescribedConsumerGroup {
        let ticket = self.call(Call::ConsumerGroupDescribe(group_id(GROUP), 1));
        match self.answer(ticket) {
            Answer::ConsumerGroupDescribe(group) => group,
            other => panic!("{other:?}"),
        }
    }

    /// State, group epoch, assignment epoch.
    pub fn epochs(&mut self) -> (String, i32, i32) {
        let group = self.describe_consumers();
        (group.group_state.to_string(), group.group_epoch, group.assignment_epoch)
    }

    /// All heartbeat in turns until nothing changes any more.
    pub fn settle_consumers(&mut self, clients: &mut [Client]) {
        for _ in 0..20 {
            for client in clients.iter_mut() {
                client.act(self);
            }
            self.pass(1_000);
        }
        assert_eq!(&*self.describe_consumers().group_state, "Stable");
    }
}

/// A ConsumerGroupHeartbeat, version 1 unless told otherwise.
#[derive(Clone)]
pub struct Beat {
    pub request: ConsumerGroupHeartbeatRequest,
    pub version: i16,
}

impl Beat {
    /// With nothing to say.
    pub fn of(member: &str, epoch: i32) -> Beat {
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id(GROUP))
            .with_member_id(text(member))
            .with_member_epoch(epoch)
            .with_rebalance_timeout_ms(-1)
            .with_topic_partitions(None);
        Beat { request, version: 1 }
    }

    /// Somebody who is subscribed to the topic `t`.
    pub fn join(member: &str) -> Beat {
        Beat::of(member, 0)
            .with(|request| request.rebalance_timeout_ms = 60_000)
            .topics(&["t"])
            .owns(&owned(&[]))
    }

    pub fn version(self, version: i16) -> Beat {
        Beat { version, ..self }
    }

    pub fn topics(self, topics: &[&str]) -> Beat {
        let topics = topics.iter().map(|topic| topic_name(topic)).collect();
        self.with(|request| request.subscribed_topic_names = Some(topics))
    }

    pub fn regex(self, regex: &str) -> Beat {
        self.with(|request| request.subscribed_topic_regex = Some(text(regex)))
    }

    pub fn instance(self, id: &str) -> Beat {
        self.with(|request| request.instance_id = Some(text(id)))
    }

    pub fn owns(self, owned: &Owned) -> Beat {
        let mut topics: Vec<TopicPartitions> = Vec::new();
        for (topic, partition) in owned {
            let id = topic_id(topic).0;
            match topics.last_mut() {
                Some(last) if last.topic_id == id => last.partitions.push(*partition),
                _ => topics
                    .push(TopicPartitions::default().with_topic_id(id).with_partitions(vec![*partition])),
            }
        }
        self.with(|request| request.topic_partitions = Some(topics))
    }

    pub fn with(mut self, change: impl FnOnce(&mut ConsumerGroupHeartbeatRequest)) -> Beat {
        change(&mut self.request);
        self
    }
}

/// What an answer assigns; None if it says nothing of it.
pub fn assigned(response: &ConsumerGroupHeartbeatResponse) -> Option<Owned> {
    let topics = response.assignment.as_ref()?.topic_partitions.iter();
    let partitions = topics.flat_map(|topic| {
        let name = topic_of(topic.topic_id);
        topic.partitions.iter().map(move |partition| (name.clone(), *partition))
    });
    Some(partitions.collect())
}

/// A consumer that does as it is told.
#[derive(Clone, Debug)]
pub struct Client {
    pub id: String,
    pub instance: Option<&'static str>,
    pub epoch: i32,
    pub topics: Vec<&'static str>,
    pub regex: Option<&'static str>,
    pub assignor: Option<&'static str>,
    /// What it works on.
    pub has: Owned,
    /// What it wants has changed since its last heartbeat.
    changed: bool,
    /// It had no answer to its last heartbeat: as the Java client, it then says and wants to hear everything.
    pub lost: bool,
}

impl Client {
    pub fn new(id: &str) -> Client {
        Client {
            id: id.to_string(),
            instance: None,
            epoch: 0,
            topics: vec!["t"],
            regex: None,
            assignor: None,
            has: Owned::new(),
            changed: false,
            lost: false,
        }
    }

    pub fn instance(self, instance: &'static str) -> Client {
        Client { instance: Some(instance), ..self }
    }

    pub fn topics(self, topics: &[&'static str]) -> Client {
        Client { topics: topics.to_vec(), ..self }
    }

    pub fn regex(self, regex: &'static str) -> Client {
        Client { topics: Vec::new(), regex: Some(regex), ..self }
    }

    pub fn assignor(self, assignor: &'static str) -> Client {
        Client { assignor: Some(assignor), ..self }
    }

    pub fn subscribe(&mut self, topics: &[&'static str]) {
        self.topics = topics.to_vec();
        self.changed = true;
    }

    pub fn heartbeat(&self) -> Beat {
        let mut beat = if self.epoch == 0 { Beat::join(&self.id) } else { Beat::of(&self.id, self.epoch) };
        if self.lost {
            beat.request.rebalance_timeout_ms = 60_000;
        }
        if self.epoch == 0 || self.changed || self.lost {
            // Without one it says so: a static member would else keep its predecessor's.
            beat = beat.topics(&self.topics).regex(self.regex.unwrap_or_default());
        }
        beat.request.instance_id = self.instance.map(text);
        beat.request.server_assignor = self.assignor.map(text);
        beat.owns(&self.has)
    }

    /// One heartbeat, after which it has what it was told to have. Who is fenced drops all and joins again.
    pub fn act(&mut self, house: &mut House) -> ConsumerGroupHeartbeatResponse {
        let response = house.beat(self.heartbeat());
        self.hear(&response);
        response
    }

    pub fn hear(&mut self, response: &ConsumerGroupHeartbeatResponse) {
        if response.error_code != 0 {
            self.epoch = 0;
            self.has.clear();
            return;
        }
        self.changed = false;
        self.lost = false;
        self.epoch = response.member_epoch;
        if let Some(assigned) = assigned(response) {
            self.has = assigned;
        }
    }

    pub fn leave(&mut self, house: &mut House) {
        let mut beat = Beat::of(&self.id, -1);
        beat.request.instance_id = self.instance.map(text);
        assert_eq!(house.beat(beat).error_code, 0);
        self.epoch = 0;
        self.has.clear();
    }
}
