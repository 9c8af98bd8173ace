//! Reads the placement's files: until the broker is placed, and then for as long as it runs.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chronik_core::controller::change_registration;
use chronik_core::ids::{BrokerEpoch, BrokerId};

use super::{BOOTSTRAP, Files, LISTENERS, Placement, RACK, Unplaced, advertised};
use crate::admin::Health;
use crate::config::Config;
use crate::quorum::MetadataStore;
use crate::storage::identity::{self, IdentityError};

/// A file that is larger is a mistake.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Someone waits for the broker: it looks often.
const WAIT: Duration = Duration::from_millis(500);
/// How soon a change is seen, at the latest.
const FOLLOW: Duration = Duration::from_secs(2);

/// The name of the condition in `/readyz`.
const CONDITION: &str = "placed";

impl Files {
    /// Reads the files of `dir`.
    ///
    /// # Errors
    /// Which one cannot be read, and why. One that is not there is none.
    pub fn read(dir: &Path) -> Result<Files, Unplaced> {
        let read = |file: &'static str| {
            let wrong = |why: String| Unplaced::Wrong { file, dir: dir.to_path_buf(), why };
            let opened = match File::open(dir.join(file)) {
                Ok(opened) => opened,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
                Err(e) => return Err(wrong(e.to_string())),
            };
            let mut text = String::new();
            let bytes = opened.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
            match bytes.map_err(|e| wrong(e.to_string()))? as u64 {
                ..=FILE_BYTES_MAX => Ok(text.trim().to_string()),
                _ => Err(wrong(format!("it is longer than {FILE_BYTES_MAX} bytes"))),
            }
        };
        Ok(Files { listeners: read(LISTENERS)?, rack: read(RACK)?, bootstrap: read(BOOTSTRAP)? })
    }
}

/// Waits until the files of `dir` place this broker. What it waits for stands in `/readyz`, and in the log, once
/// for each change.
///
/// # Errors
/// When waiting cannot help: the disk is not the one that is known, or cannot be looked at.
pub async fn wait(dir: &Path, config: &Config, health: &Health) -> anyhow::Result<(Placement, Files)> {
    let mut said = None;
    loop {
        match look(dir.to_path_buf(), config.clone()).await? {
            Ok(placed) => {
                health.met(CONDITION);
                return Ok(placed);
            }
            Err(why) if !why.may_pass() => return Err(why.into()),
            Err(why) => {
                if said.as_ref() != Some(&why) {
                    health.unmet(CONDITION, why.to_string());
                    match &why {
                        Unplaced::Wrong { .. } => tracing::warn!("not placed yet: {why}"),
                        _ => tracing::info!("not placed yet: {why}"),
                    }
                    said = Some(why);
                }
            }
        }
        tokio::time::sleep(WAIT).await;
    }
}

/// Reads everything a placement depends on. It is on disks, so not for an async thread.
async fn look(dir: PathBuf, config: Config) -> anyhow::Result<Result<(Placement, Files), Unplaced>> {
    let looking = tokio::task::spawn_blocking(move || {
        let is_used = identity::is_used(&config.data_dir)?;
        let placed = Files::read(&dir).and_then(|files| {
            let placement = Placement::of(&dir, &files, &config, is_used)?;
            Ok((placement, files))
        });
        Ok::<_, IdentityError>(placed)
    });
    Ok(looking.await??)
}

/// Whose placement is followed, and what is registered of it.
pub struct Followed {
    pub dir: PathBuf,
    pub config: Config,
    /// The ports that the listeners are bound to, in order.
    pub bound: Vec<u16>,
    pub broker_epoch: BrokerEpoch,
    pub metadata: Arc<MetadataStore>,
    /// What was registered.
    pub files: Files,
}

/// Registers what changes in the files: same incarnation, same epochs, nothing is fenced. What cannot be used
/// is told once and passed over, for the broker is reached where it was. Runs until dropped.
pub async fn follow(mut followed: Followed) {
    let mut tick = tokio::time::interval(FOLLOW);
    let mut said = None;
    loop {
        tick.tick().await;
        let why = followed.look().await.err();
        if why != said {
            if let Some(why) = &why {
                tracing::warn!("this broker's placement stays as it was: {why}");
            }
            said = why;
        }
    }
}

impl Followed {
    async fn look(&mut self) -> Result<(), String> {
        let dir = self.dir.clone();
        let reading = tokio::task::spawn_blocking(move || Files::read(&dir)).await;
        let files = reading.map_err(|e| e.to_string())?.map_err(|why| why.to_string())?;
        if files == self.files {
            return Ok(());
        }
        // It runs, so its disk is the one that is known.
        let placement =
            Placement::of(&self.dir, &files, &self.config, true).map_err(|why| why.to_string())?;
        let listeners = advertised(&placement.listeners, &self.bound);
        let (id, epoch): (BrokerId, BrokerEpoch) = (self.config.broker_id, self.broker_epoch);
        let rack = placement.rack.as_deref();
        let changing = self.metadata.change(|image| change_registration(image, id, epoch, &listeners, rack));
        changing.await.map_err(|e| format!("it cannot be registered: {e}"))?;
        tracing::info!(
            "clients are given {} from now on{}",
            files.listeners,
            rack.map(|rack| format!(", rack {rack}")).unwrap_or_default()
        );
        self.files = files;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chronik_core::controller::Registration;
    use chronik_core::controller::register_broker;
    use chronik_core::ids::{DiskUuid, Uuid};

    use super::*;

    fn write(dir: &Path, listeners: &str, rack: &str, bootstrap: &str) {
        for (name, text) in [(LISTENERS, listeners), (RACK, rack), (BOOTSTRAP, bootstrap)] {
            std::fs::write(dir.join(name), text).unwrap();
        }
    }

    fn config(placement: &Path, data: &Path) -> Config {
        Config::of(&[
            ("listeners", "INTERNAL://0.0.0.0:9092"),
            ("listener.security.protocol.map", "INTERNAL:PLAINTEXT"),
            ("chronik.placement.dir", &placement.display().to_string()),
            ("chronik.data.dir", &data.display().to_string()),
        ])
        .unwrap()
    }

    #[test]
    fn files_are_trimmed_and_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Files::read(dir.path()).unwrap(), Files::default());
        assert_eq!(Files::read(&dir.path().join("none")).unwrap(), Files::default());
        write(dir.path(), " INTERNAL://a:1 \n", "", "allowed\n");
        let read = Files::read(dir.path()).unwrap();
        assert_eq!((read.listeners.as_str(), read.bootstrap.as_str()), ("INTERNAL://a:1", "allowed"));
        std::fs::write(dir.path().join(RACK), [0xff, 0xfe]).unwrap();
        assert!(Files::read(dir.path()).unwrap_err().to_string().contains("rack"));
        std::fs::write(dir.path().join(RACK), vec![b'x'; FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(Files::read(dir.path()).unwrap_err().to_string().contains("longer"));
        std::fs::remove_file(dir.path().join(RACK)).unwrap();
        std::fs::create_dir(dir.path().join(RACK)).unwrap();
        assert!(Files::read(dir.path()).is_err());
    }

    #[tokio::test]
    async fn readyz_says_what_a_broker_waits_for_until_it_is_placed() {
        let (dir, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = config(dir.path(), data.path());
        let health = Arc::new(Health::new());
        write(dir.path(), "", "", "allowed");
        let waiting = {
            let (health, config, dir) = (health.clone(), config.clone(), dir.path().to_path_buf());
            tokio::spawn(async move { wait(&dir, &config, &health).await })
        };
        let said = async |words: &str| {
            while !health.waiting_for().iter().any(|r| r.starts_with("placed: ") && r.contains(words)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        said("waiting for advertised-listeners").await;
        write(dir.path(), "INTERNAL://nowhere", "", "allowed");
        said("no port").await;
        write(dir.path(), "INTERNAL://broker-0:9092", "zone-b", "allowed");
        let (placement, files) = waiting.await.unwrap().unwrap();
        assert_eq!((placement.rack.as_deref(), files.rack.as_str()), (Some("zone-b"), "zone-b"));
        assert!(!health.waiting_for().iter().any(|r| r.starts_with("placed")));

        write(dir.path(), "INTERNAL://broker-0:9092", "", "forbidden");
        let refused = wait(dir.path(), &config, &health).await.unwrap_err();
        assert!(refused.to_string().contains("holds no data"), "{refused}");
        assert!(std::fs::read_dir(data.path()).unwrap().next().is_none(), "the disk was written to");
    }

    #[tokio::test]
    async fn what_changes_is_registered_and_what_is_wrong_is_not() {
        let (dir, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = config(dir.path(), data.path());
        let metadata = MetadataStore::in_memory(Arc::new(config.local()), "c").await.unwrap();
        let disk = DiskUuid(Uuid::from_u128(1));
        let registration = Registration {
            cluster_id: "c".to_string(),
            broker_id: config.broker_id,
            incarnation: Uuid::from_u128(2),
            disk_uuid: disk,
            wal_disk_uuid: disk,
            listeners: Vec::new(),
            rack: None,
        };
        let broker_epoch = metadata.change(|image| register_broker(image, &registration)).await.unwrap();
        let mut followed = Followed {
            dir: dir.path().to_path_buf(),
            config,
            bound: vec![40_000],
            broker_epoch,
            metadata: metadata.clone(),
            files: Files::default(),
        };
        let shown = || {
            let image = metadata.image();
            let broker = image.broker(BrokerId(1)).unwrap().clone();
            let listeners = broker.listeners.iter().map(|l| format!("{}:{}", l.host, l.port));
            (listeners.collect::<Vec<_>>().join(","), broker.rack.clone(), image.offset())
        };
        write(dir.path(), "INTERNAL://a:0", "zone-a", "forbidden");
        followed.look().await.unwrap();
        let first = shown();
        assert_eq!((first.0.as_str(), first.1.as_deref()), ("a:40000", Some("zone-a")));
        followed.look().await.unwrap();
        assert_eq!(shown(), first, "nothing changed, so nothing is written");

        write(dir.path(), "INTERNAL://", "zone-a", "forbidden");
        assert!(followed.look().await.is_err());
        write(dir.path(), "", "zone-a", "forbidden");
        assert!(followed.look().await.unwrap_err().contains("waiting for advertised-listeners"));
        assert_eq!(shown(), first);

        write(dir.path(), "INTERNAL://b:9", "", "forbidden");
        followed.look().await.unwrap();
        assert_eq!((shown().0.as_str(), shown().1), ("b:9", None));
        let broker = metadata.image().broker(BrokerId(1)).unwrap().clone();
        assert_eq!((broker.incarnation, broker.broker_epoch), (Uuid::from_u128(2), broker_epoch));
        assert!(!broker.fenced);
    }
}
