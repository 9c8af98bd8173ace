//! The flags of `chronik broker`, and how each becomes a configuration key.

use std::path::PathBuf;

/// Flags for the keys used most; `--set` reaches every key.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct BrokerArgs {
    /// Accept Kafka clients here (the listener PLAINTEXT)
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Serve health, metrics and the admin calls here, or `none`
    #[arg(long, value_name = "HOST:PORT")]
    pub admin_listen: Option<String>,
    /// The file with the bearer token that /v1 asks for
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<String>,
    /// Keep segments and metadata here
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Keep the write-ahead log here, if not in the data directory
    #[arg(long, value_name = "DIR")]
    pub wal_dir: Option<String>,
    /// The WAL profile of topics that name none: low, medium, high, ultra, or one that is defined
    #[arg(long, value_name = "NAME")]
    pub wal_profile: Option<String>,
    /// Whether the WAL uses io_uring: auto, required or disabled
    #[arg(long, value_name = "CHOICE")]
    pub wal_engine: Option<String>,
    /// Read keys from this file: YAML, or Java properties when it ends in .properties
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set any key; may be repeated, and goes before every other source
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
}

impl BrokerArgs {
    /// The flags that were given, each with the key it sets and the value for it.
    pub(super) fn keys(&self) -> Vec<(&'static str, &'static str, String)> {
        let listeners = self.listen.as_ref().map(|address| format!("PLAINTEXT://{address}"));
        let flags = [
            ("--listen", "listeners", &listeners),
            ("--admin-listen", "chronik.admin.listen", &self.admin_listen),
            ("--admin-token-file", "chronik.admin.token.file", &self.admin_token_file),
            ("--data-dir", "chronik.data.dir", &self.data_dir),
            ("--wal-dir", "chronik.wal.dir", &self.wal_dir),
            ("--wal-profile", "chronik.wal.profile", &self.wal_profile),
            ("--wal-engine", "chronik.wal.engine", &self.wal_engine),
        ];
        flags.into_iter().filter_map(|(flag, key, value)| Some((flag, key, value.clone()?))).collect()
    }
}
