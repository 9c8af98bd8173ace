//! Whoever coordinates a group or a transactional id is asked until it is there.

use std::time::Duration;

use kafka_protocol::messages::FindCoordinatorRequest;
use kafka_protocol::protocol::StrBytes;
use tokio::time::{Instant, sleep};

use super::admin::first;
use super::cluster::Client;
use super::connection::RequestVersion;
use super::error::{ClientError, check};

/// While a coordinator is on its way, it is asked again this often.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// `COORDINATOR_LOAD_IN_PROGRESS`, `COORDINATOR_NOT_AVAILABLE`, `NOT_COORDINATOR`
const ON_ITS_WAY: [i16; 3] = [14, 15, 16];

/// What is coordinated, by its number in a FindCoordinator.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Group = 0,
    Transaction = 1,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Transaction => "transactional id",
        }
    }
}

impl Client {
    /// Asks the coordinator of `id`, and again while it is on its way: `code` finds that in the answer.
    pub(super) async fn coordinated<R: RequestVersion>(
        &mut self,
        kind: Kind,
        id: &str,
        request: &R,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response, ClientError> {
        let deadline = Instant::now() + self.timeout();
        loop {
            let broker = self.coordinator(kind, id, deadline).await?;
            let response = self.broker(broker).await?.call(request).await?;
            if !ON_ITS_WAY.contains(&code(&response)) || Instant::now() >= deadline {
                return Ok(response);
            }
            sleep(ASK_AGAIN).await;
        }
    }

    /// The same of every broker, for what each of them coordinates.
    pub(super) async fn every_coordinator<R: RequestVersion>(
        &mut self,
        request: &R,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<Vec<(i32, R::Response)>, ClientError> {
        let brokers: Vec<i32> = self.cluster(Some(&[])).await?.brokers.into_keys().collect();
        let mut responses = Vec::with_capacity(brokers.len());
        for id in brokers {
            let deadline = Instant::now() + self.timeout();
            let response = loop {
                let response = self.broker(id).await?.call(request).await?;
                if !ON_ITS_WAY.contains(&code(&response)) || Instant::now() >= deadline {
                    break response;
                }
                sleep(ASK_AGAIN).await;
            };
            responses.push((id, response));
        }
        Ok(responses)
    }

    /// The broker that coordinates `id`.
    async fn coordinator(&mut self, kind: Kind, id: &str, deadline: Instant) -> Result<i32, ClientError> {
        let key = StrBytes::from_string(id.to_owned());
        let request =
            FindCoordinatorRequest::default().with_key_type(kind as i8).with_coordinator_keys(vec![key]);
        let what = || format!("find the coordinator of {} {id}", kind.name());
        let found = loop {
            let response = self.ask(&request).await?;
            let found = first(response.coordinators, what)?;
            if !ON_ITS_WAY.contains(&found.error_code) || Instant::now() >= deadline {
                break found;
            }
            sleep(ASK_AGAIN).await;
        };
        check(found.error_code, found.error_message.as_deref(), what)?;
        // Learns where the brokers are.
        self.cluster(Some(&[])).await?;
        Ok(found.node_id.0)
    }
}
