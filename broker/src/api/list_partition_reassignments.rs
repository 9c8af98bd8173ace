//! ListPartitionReassignments (46): which partitions are moving to other brokers. None ever is, while there is
//! nothing that copies them (see AlterPartitionReassignments).

use kafka_protocol::messages::{
    ApiKey, ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};

use super::{Api, Reply, Request};

pub const API: Api =
    Api { key: ApiKey::ListPartitionReassignments, min: 0, max: 0, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    if let Err(close) = request.decode::<ListPartitionReassignmentsRequest>() {
        return close;
    }
    request.head.reply(&ListPartitionReassignmentsResponse::default().with_error_message(None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use crate::api::text;
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;

    #[tokio::test]
    async fn nothing_moves() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 1).await;
        let topic = ListPartitionReassignmentsTopics::default()
            .with_name(TopicName(text("a")))
            .with_partition_indexes(vec![0]);
        for topics in [None, Some(vec![topic])] {
            let request = ListPartitionReassignmentsRequest::default().with_topics(topics);
            let response: ListPartitionReassignmentsResponse = fixture.call(0, &request).await;
            assert_eq!((response.error_code, response.error_message, response.topics.len()), (0, None, 0));
        }
    }
}
