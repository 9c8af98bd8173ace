//! Topics that the cluster makes for itself.

use super::topics::{NewTopic, create_topics};
use super::{ControllerError, ErrorCode};
use crate::ids::TopicId;
use crate::metadata::config::broker_value_of;
use crate::metadata::image::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use crate::metadata::{MetadataImage, MetadataRecord};

/// An internal topic as the settings want it; `None` for topics that are none, or that nobody here uses yet.
pub fn internal_topic(image: &MetadataImage, name: &str) -> Option<NewTopic> {
    let settings = match name {
        OFFSETS_TOPIC => "offsets.topic",
        TRANSACTIONS_TOPIC => "transaction.state.log",
        _ => return None,
    };
    let value = |of: &str| broker_value_of(image, &format!("{settings}.{of}"));
    // The table has checked them.
    let number = |of: &str| value(of).parse::<i32>().unwrap_or(1);
    let set = |name: &str, value: &str| (name.to_string(), Some(value.to_string()));
    Some(NewTopic {
        name: name.to_string(),
        num_partitions: number("num.partitions"),
        replication_factor: i16::try_from(number("replication.factor")).unwrap_or(i16::MAX),
        assignments: Vec::new(),
        configs: vec![
            set("cleanup.policy", "compact"),
            set("compression.type", "producer"),
            set("segment.bytes", value("segment.bytes")),
        ],
    })
}

/// Creates an internal topic, unless it is there, whatever `auto.create.topics.enable` says.
pub fn create_internal_topic(
    image: &MetadataImage,
    name: &str,
    fresh_id: &mut dyn FnMut() -> TopicId,
) -> (Vec<MetadataRecord>, Result<(), ControllerError>) {
    if image.topic(name).is_some() {
        return (Vec::new(), Ok(()));
    }
    let Some(topic) = internal_topic(image, name) else {
        let message = format!("{name} is no topic that this cluster makes for itself.");
        return (Vec::new(), Err(ControllerError::new(ErrorCode::InvalidTopic, message)));
    };
    let (records, mut answers) = create_topics(image, &[topic], false, fresh_id);
    (records, answers.pop().map_or(Ok(()), |(_, answer)| answer.map(drop)))
}

#[cfg(test)]
mod tests {
    use super::super::auto_create_topics;
    use super::super::testing::{apply, cluster, ids};
    use super::*;

    #[test]
    fn coordinators_topics_are_made_once_as_their_settings_say() {
        let image = cluster(&[(1, None)]);
        for name in [OFFSETS_TOPIC, TRANSACTIONS_TOPIC] {
            let (records, created) = create_internal_topic(&image, name, &mut ids(1));
            created.unwrap();
            let made = apply(&image, &records);
            let topic = made.topic(name).unwrap();
            assert!(topic.is_internal && topic.config.cleanup.compact && !topic.config.cleanup.delete);
            assert_eq!((topic.partitions.len(), topic.config.segment_bytes), (50, 104_857_600));
            let (again, created) = create_internal_topic(&made, name, &mut ids(2));
            assert_eq!((again, created), (Vec::new(), Ok(())));
        }
        let (_, refused) = create_internal_topic(&image, "t", &mut ids(1));
        assert_eq!(refused.unwrap_err().code, ErrorCode::InvalidTopic);
    }

    #[test]
    fn a_client_that_asks_for_its_metadata_makes_the_same_topic() {
        let image = cluster(&[(1, None)]);
        let (records, _) = auto_create_topics(&image, &[OFFSETS_TOPIC.to_string()], &mut ids(1));
        assert_eq!(records, create_internal_topic(&image, OFFSETS_TOPIC, &mut ids(1)).0);
    }
}
