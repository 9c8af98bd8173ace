//! What a run is about. The same broker lives in all of them.

/// Who comes and goes beside the plain and idempotent producers, and what topics there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Topics of all kinds that come and go, with retention, deletion and compaction.
    Storage,
    /// Members of a group and transactional producers, with coordinators over internal topics of their own.
    Coordinators,
}

impl Scenario {
    pub const ALL: [Scenario; 2] = [Scenario::Storage, Scenario::Coordinators];

    pub fn name(self) -> &'static str {
        match self {
            Scenario::Storage => "storage",
            Scenario::Coordinators => "coordinators",
        }
    }

    pub fn by_name(name: &str) -> Option<Scenario> {
        Scenario::ALL.into_iter().find(|scenario| scenario.name() == name)
    }
}
