//! Leaders are elected because somebody asks for it (ElectLeaders).

use std::collections::BTreeSet;

use super::{ControllerError, ErrorCode, brokers};
use crate::metadata::image::{NO_LEADER, PartitionImage};
use crate::metadata::{MetadataImage, MetadataRecord, TopicImage};

/// Who is to lead, by Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ElectionType {
    /// The first replica.
    Preferred = 0,
    /// Any replica, where there is no leader.
    Unclean = 1,
}

impl ElectionType {
    pub fn from_wire(election_type: i8) -> Option<ElectionType> {
        [ElectionType::Preferred, ElectionType::Unclean].into_iter().find(|t| *t as i8 == election_type)
    }
}

/// One answer per partition, by topic, in the order asked.
pub type Elected = Vec<(String, Vec<(i32, Result<(), ControllerError>)>)>;

/// Elects leaders of these partitions; of all, with `None`, and then those that need no election are not told.
pub fn elect_leaders(
    image: &MetadataImage,
    election: ElectionType,
    partitions: Option<&[(String, Vec<i32>)]>,
) -> (Vec<MetadataRecord>, Elected) {
    let every = |topic: &TopicImage| {
        let numbers = 0..i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        (topic.name.to_string(), numbers.collect::<Vec<i32>>())
    };
    let asked = match partitions {
        Some(partitions) => partitions.to_vec(),
        None => image.topics().map(|topic| every(topic)).collect(),
    };
    let mut records = Vec::new();
    let mut elected = BTreeSet::new();
    let mut decide = |topic: &str, number: i32| {
        if elected.contains(&(topic.to_string(), number)) {
            return Err(not_needed());
        }
        records.push(elect(image, election, topic, number)?);
        elected.insert((topic.to_string(), number));
        Ok(())
    };
    let mut answers = Elected::new();
    for (topic, numbers) in asked {
        let decided = numbers.into_iter().map(|number| (number, decide(&topic, number)));
        let told = decided.filter(|(_, result)| {
            let needless = matches!(result, Err(e) if e.code == ErrorCode::ElectionNotNeeded);
            partitions.is_some() || !needless
        });
        let told = told.collect();
        answers.push((topic, told));
    }
    (records, answers)
}

fn not_needed() -> ControllerError {
    ControllerError::new(ErrorCode::ElectionNotNeeded, "Leader election not needed for topic partition.")
}

/// The record that gives one partition the leader asked for.
fn elect(
    image: &MetadataImage,
    election: ElectionType,
    name: &str,
    number: i32,
) -> Result<MetadataRecord, ControllerError> {
    let unknown =
        |what: String| ControllerError::new(ErrorCode::UnknownTopicOrPartition, format!("No such {what}"));
    let topic = image.topic(name).ok_or_else(|| unknown(format!("topic as {name}")))?;
    let partition = topic.partition(number);
    let partition = partition.ok_or_else(|| unknown(format!("partition as {name}-{number}")))?;
    let preferred = partition.replicas.first().copied().unwrap_or(NO_LEADER);
    let needless = match election {
        ElectionType::Preferred => partition.leader == preferred,
        ElectionType::Unclean => partition.leader != NO_LEADER,
    };
    if needless {
        return Err(not_needed());
    }
    let leader = match election {
        ElectionType::Preferred => {
            Some(preferred).filter(|id| brokers::may_lead(image, partition, *id, None))
        }
        // Without replication nobody has part of the log only: who is not in sync has none.
        ElectionType::Unclean => {
            Some(brokers::elect(image, partition, None)).filter(|leader| *leader != NO_LEADER)
        }
    };
    let leader = leader.ok_or_else(|| match election {
        ElectionType::Preferred => ControllerError::new(
            ErrorCode::PreferredLeaderNotAvailable,
            "The preferred leader was not available.",
        ),
        ElectionType::Unclean => ControllerError::new(
            ErrorCode::EligibleLeadersNotAvailable,
            "Eligible topic partition leaders are not available.",
        ),
    })?;
    let next = PartitionImage { leader, ..partition.clone() };
    brokers::partition_change(topic, number, partition, next, false)?.ok_or_else(not_needed)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{apply, cluster, registration, topic, with_topics};
    use super::super::{NewTopic, fence_broker, register_broker};
    use super::*;
    use crate::ids::{BrokerId, PartitionEpoch};

    fn codes(answers: &Elected) -> Vec<(i32, Option<ErrorCode>)> {
        let all = answers.iter().flat_map(|(_, partitions)| partitions);
        all.map(|(number, result)| (*number, result.as_ref().err().map(|e| e.code))).collect()
    }

    fn asked(numbers: &[i32]) -> Vec<(String, Vec<i32>)> {
        vec![("t".to_string(), numbers.to_vec())]
    }

    #[test]
    fn a_leader_that_is_the_preferred_one_stays() {
        let image = with_topics(&cluster(&[(1, None)]), &[topic("t", 2)]);
        for election in [ElectionType::Preferred, ElectionType::Unclean] {
            let (records, answers) = elect_leaders(&image, election, Some(&asked(&[0, 1, 2])));
            assert!(records.is_empty());
            let needless = Some(ErrorCode::ElectionNotNeeded);
            let expected = [(0, needless), (1, needless), (2, Some(ErrorCode::UnknownTopicOrPartition))];
            assert_eq!(codes(&answers), expected);
            // Of all partitions, only those are told that something was done about.
            assert_eq!(
                elect_leaders(&image, election, None),
                (Vec::new(), vec![("t".to_string(), Vec::new())])
            );
        }
        let gone = [("gone".to_string(), vec![0])];
        let (_, answers) = elect_leaders(&image, ElectionType::Preferred, Some(&gone));
        assert_eq!(answers[0].1[0].1.as_ref().unwrap_err().message, "No such topic as gone");
    }

    #[test]
    fn the_preferred_replica_leads_again_once_it_is_in_sync() {
        let assignments = vec![(0, vec![BrokerId(1), BrokerId(2)])];
        let new = NewTopic { assignments, ..topic("t", -1) };
        let image = with_topics(&cluster(&[(1, None), (2, None)]), &[new]);
        let away = apply(&image, &register_broker(&image, &registration(1)).unwrap().0);
        assert_eq!(away.topic("t").unwrap().partitions[0].leader, BrokerId(2));
        let (_, answers) = elect_leaders(&away, ElectionType::Preferred, None);
        assert_eq!(codes(&answers), [(0, Some(ErrorCode::PreferredLeaderNotAvailable))]);

        let p = &away.topic("t").unwrap().partitions[0];
        let caught_up = MetadataRecord::PartitionChange {
            topic_id: away.topic("t").unwrap().id,
            partition: 0,
            replicas: None,
            isr: Some(vec![BrokerId(1), BrokerId(2)]),
            elr: None,
            leader: None,
            leader_epoch: p.leader_epoch,
            partition_epoch: PartitionEpoch(p.partition_epoch.0 + 1),
        };
        let image = apply(&away, &[caught_up]);
        let twice = asked(&[0, 0]);
        let (records, answers) = elect_leaders(&image, ElectionType::Preferred, Some(&twice));
        assert_eq!(codes(&answers), [(0, None), (0, Some(ErrorCode::ElectionNotNeeded))]);
        let image = apply(&image, &records);
        assert_eq!(image.topic("t").unwrap().partitions[0].leader, BrokerId(1));
    }

    #[test]
    fn nobody_leads_who_has_no_log() {
        let image = with_topics(&cluster(&[(1, None)]), &[topic("t", 1)]);
        let epoch = image.broker(BrokerId(1)).unwrap().broker_epoch;
        let fenced = apply(&image, &fence_broker(&image, BrokerId(1), epoch).unwrap().0);
        let (_, answers) = elect_leaders(&fenced, ElectionType::Unclean, None);
        assert_eq!(codes(&answers), [(0, Some(ErrorCode::EligibleLeadersNotAvailable))]);
    }
}
