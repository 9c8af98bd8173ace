//! A consumer of the classic protocol. It gives up all that it has before it joins (an eager one).

use kafka_protocol::error::ResponseError;

use super::house::*;

/// A `ConsumerProtocolSubscription`, version 1, of a consumer that has nothing.
pub fn subscription(topics: &[&str]) -> Bytes {
    let mut metadata = subscribed(topics).to_vec();
    metadata[1] = 1;
    metadata.extend(0_i32.to_be_bytes());
    metadata.into()
}

/// A `ConsumerProtocolAssignment`, version 0, of partitions of one topic.
pub fn assignment(topic: &str, partitions: &[i32]) -> String {
    let mut assignment = vec![0, 0];
    assignment.extend(1_i32.to_be_bytes());
    assignment.extend((topic.len() as i16).to_be_bytes());
    assignment.extend(topic.as_bytes());
    assignment.extend((partitions.len() as i32).to_be_bytes());
    for partition in partitions {
        assignment.extend(partition.to_be_bytes());
    }
    assignment.extend(0_i32.to_be_bytes());
    String::from_utf8(assignment).unwrap()
}

/// What a SyncGroup assigns.
pub fn synced(assignment: &[u8]) -> Owned {
    if assignment.is_empty() {
        return Owned::new();
    }
    let topics = embedded::Assignment::decode(assignment).unwrap().partitions.into_iter();
    let partitions = topics.flat_map(|(topic, partitions)| {
        partitions.into_iter().map(move |partition| (topic.to_string(), partition))
    });
    partitions.collect()
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Out,
    Joining(Ticket),
    /// It leads, and is to assign to these.
    Leading(Vec<StrBytes>),
    Joined,
    Syncing(Ticket),
    Working,
}

#[derive(Clone, Debug)]
pub struct ClassicClient {
    pub id: StrBytes,
    pub instance: Option<&'static str>,
    pub generation: i32,
    pub topic: &'static str,
    /// Of that topic, for when it leads.
    partitions: i32,
    pub has: Owned,
    phase: Phase,
}

impl ClassicClient {
    pub fn new(topic: &'static str, partitions: i32) -> ClassicClient {
        ClassicClient {
            id: StrBytes::new(),
            instance: None,
            generation: -1,
            topic,
            partitions,
            has: Owned::new(),
            phase: Phase::Out,
        }
    }

    pub fn instance(self, instance: &'static str) -> ClassicClient {
        ClassicClient { instance: Some(instance), ..self }
    }

    pub fn is_working(&self) -> bool {
        self.phase == Phase::Working
    }

    pub fn join(&self) -> Join {
        let join = Join::new().member(&self.id).protocols(&[("range", subscription(&[self.topic]))]);
        join.with(|request| request.group_instance_id = self.instance.map(text))
    }

    /// What it does next; whether it went on with it.
    pub fn act(&mut self, house: &mut House) {
        match self.phase.clone() {
            Phase::Out => {
                self.has.clear();
                self.phase = Phase::Joining(house.join(self.join()));
            }
            Phase::Joining(ticket) if house.is_waiting(ticket) => {}
            Phase::Joining(ticket) => {
                let response = house.joined(ticket);
                self.hear_joined(&response);
            }
            Phase::Leading(members) => {
                let count = members.len() as i32;
                let work: Vec<_> = (0..count)
                    .map(|number| (0..self.partitions).filter(|p| p % count == number).collect::<Vec<_>>())
                    .map(|partitions| assignment(self.topic, &partitions))
                    .collect();
                let assignments: Vec<_> = members.iter().zip(work.iter().map(String::as_str)).collect();
                self.phase = Phase::Syncing(house.sync(&self.id, self.generation, &assignments));
            }
            Phase::Joined => self.phase = Phase::Syncing(house.sync(&self.id, self.generation, &[])),
            Phase::Syncing(ticket) if house.is_waiting(ticket) => {}
            Phase::Syncing(ticket) => {
                let response = house.synced(ticket);
                if response.error_code == 0 {
                    self.has = synced(&response.assignment);
                }
                self.go_on(response.error_code, Phase::Working);
            }
            Phase::Working => {
                let error = house.heartbeat(&self.id, self.generation);
                self.go_on(error, Phase::Working);
            }
        }
    }

    fn hear_joined(&mut self, response: &JoinGroupResponse) {
        match response.error_code {
            0 => {
                self.id = response.member_id.clone();
                self.generation = response.generation_id;
                let members: Vec<_> =
                    response.members.iter().map(|member| member.member_id.clone()).collect();
                let leads = response.leader == self.id && !response.skip_assignment;
                self.phase = if leads { Phase::Leading(members) } else { Phase::Joined };
            }
            error if error == ResponseError::MemberIdRequired.code() => {
                self.id = response.member_id.clone();
                self.phase = Phase::Out;
            }
            error => self.go_on(error, Phase::Out),
        }
    }

    fn go_on(&mut self, error: i16, phase: Phase) {
        let unknown = [ResponseError::UnknownMemberId, ResponseError::FencedInstanceId].map(|e| e.code());
        let again = [ResponseError::RebalanceInProgress, ResponseError::IllegalGeneration].map(|e| e.code());
        self.phase = if error == 0 { phase } else { Phase::Out };
        if unknown.contains(&error) {
            self.id = StrBytes::new();
            self.generation = -1;
        } else {
            assert!(error == 0 || again.contains(&error), "{error}");
        }
        if error != 0 {
            self.has.clear();
        }
    }

    /// The broker is started anew: nobody answers any more.
    pub fn restart(&mut self) {
        if matches!(self.phase, Phase::Joining(_) | Phase::Syncing(_)) {
            self.phase = Phase::Out;
        }
    }

    pub fn leave(&mut self, house: &mut House) {
        house.leave(&[(&self.id, self.instance)]);
        *self = ClassicClient { instance: self.instance, ..ClassicClient::new(self.topic, self.partitions) };
    }
}
