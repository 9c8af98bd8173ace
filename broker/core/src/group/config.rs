//! The settings of the coordinator, by Kafka's names.

/// Of a broker. Those that begin with `consumer` are of the consumer protocol (KIP-848); a group's own come before some of
/// them ([`super::configs`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// `group.min.session.timeout.ms`
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`
    pub max_session_timeout_ms: i32,
    /// `group.initial.rebalance.delay.ms`
    pub initial_rebalance_delay_ms: i32,
    /// `group.max.size`, in members.
    pub max_size: usize,
    /// `group.consumer.session.timeout.ms`
    pub consumer_session_timeout_ms: i32,
    /// `group.consumer.heartbeat.interval.ms`
    pub consumer_heartbeat_interval_ms: i32,
    /// `group.consumer.assignment.interval.ms`: a group's target assignment is not made anew more often.
    pub consumer_assignment_interval_ms: i32,
    /// `group.consumer.max.size`, in members.
    pub consumer_max_size: usize,
    /// `group.consumer.assignors`; the first is the default one. Never empty.
    pub consumer_assignors: Vec<AssignorKind>,
    /// `group.consumer.migration.policy`
    pub consumer_migration_policy: MigrationPolicy,
    /// `group.consumer.regex.refresh.interval.ms`
    pub consumer_regex_refresh_interval_ms: i32,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`
    pub offsets_retention_check_interval_ms: i64,
    /// `message.max.bytes` of `__consumer_offsets`: what would make a bigger batch is refused, so that no client makes an
    /// append fail.
    pub max_batch_bytes: usize,
}

impl Default for GroupConfig {
    fn default() -> GroupConfig {
        GroupConfig {
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            max_size: usize::MAX,
            consumer_session_timeout_ms: 45_000,
            consumer_heartbeat_interval_ms: 5_000,
            consumer_assignment_interval_ms: 1_000,
            consumer_max_size: usize::MAX,
            consumer_assignors: vec![AssignorKind::Uniform, AssignorKind::Range],
            consumer_migration_policy: MigrationPolicy::Bidirectional,
            consumer_regex_refresh_interval_ms: 600_000,
            offset_metadata_max_bytes: 4_096,
            offsets_retention_ms: 7 * 24 * 3_600_000,
            offsets_retention_check_interval_ms: 600_000,
            max_batch_bytes: 1_048_576,
        }
    }
}

/// Who shares out partitions on the coordinator's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AssignorKind {
    Uniform,
    Range,
}

impl AssignorKind {
    pub fn name(self) -> &'static str {
        match self {
            AssignorKind::Uniform => "uniform",
            AssignorKind::Range => "range",
        }
    }

    /// By its name, or by that of Kafka's class, as `group.consumer.assignors` may have it.
    pub fn parse(name: &str) -> Option<AssignorKind> {
        match name.strip_prefix("org.apache.kafka.coordinator.group.assignor.").unwrap_or(name) {
            "uniform" | "UniformAssignor" => Some(AssignorKind::Uniform),
            "range" | "RangeAssignor" => Some(AssignorKind::Range),
            _ => None,
        }
    }
}

/// Which groups may change their protocol while they have members (`group.consumer.migration.policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationPolicy {
    Bidirectional,
    /// From the classic protocol to the consumer protocol.
    Upgrade,
    /// From the consumer protocol to the classic one.
    Downgrade,
    Disabled,
}

impl MigrationPolicy {
    /// Kafka does not mind the case.
    pub fn parse(name: &str) -> Option<MigrationPolicy> {
        let policies = [
            ("bidirectional", MigrationPolicy::Bidirectional),
            ("upgrade", MigrationPolicy::Upgrade),
            ("downgrade", MigrationPolicy::Downgrade),
            ("disabled", MigrationPolicy::Disabled),
        ];
        policies.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, policy)| policy)
    }

    pub fn allows_upgrade(self) -> bool {
        matches!(self, MigrationPolicy::Bidirectional | MigrationPolicy::Upgrade)
    }

    pub fn allows_downgrade(self) -> bool {
        matches!(self, MigrationPolicy::Bidirectional | MigrationPolicy::Downgrade)
    }
}
