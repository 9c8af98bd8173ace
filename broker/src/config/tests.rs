use std::collections::BTreeMap;
use std::io::Write as _;

use super::*;

fn around(pairs: &[(&str, &str)]) -> Surroundings {
    let mut environment: BTreeMap<String, String> =
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    environment.entry("HOME".into()).or_insert("/home/u".into());
    Surroundings { environment, is_root: false }
}

fn file(suffix: &str, text: &str) -> tempfile::NamedTempFile {
    let mut f = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
    f.write_all(text.as_bytes()).unwrap();
    f
}

fn errors(pairs: &[(&str, &str)]) -> String {
    Config::of(pairs).unwrap_err().to_string()
}

#[test]
fn nothing_set_is_a_broker_on_loopback() {
    let c = Config::load(&BrokerArgs::default(), &around(&[])).unwrap();
    assert_eq!(c.listeners.len(), 1);
    assert_eq!(c.listeners[0].bind.to_string(), "127.0.0.1:9092");
    assert_eq!((c.broker_id, c.inter_broker_listener.as_str()), (BrokerId(1), "PLAINTEXT"));
    assert_eq!(c.data_dir, Path::new("/home/u/.local/share/chronik"));
    assert_eq!(c.wal_dir, Path::new("/home/u/.local/share/chronik/wal"));
    assert_eq!((c.wal_profile.as_str(), c.wal_profiles.len(), c.wal_in_flight), ("high", 4, None));
    assert_eq!((c.request_bytes_max, c.request_memory_bytes), (104_857_600, 268_435_456));
    let root = Surroundings { environment: BTreeMap::new(), is_root: true };
    assert_eq!(Config::load(&BrokerArgs::default(), &root).unwrap().data_dir, Path::new("/var/lib/chronik"));
    let nobody = Surroundings { environment: BTreeMap::new(), is_root: false };
    assert_eq!(Config::load(&BrokerArgs::default(), &nobody).unwrap_err().0, vec![ConfigError::NoDataDir]);
}

#[test]
fn later_sources_go_before_earlier_ones() {
    let text = "node.id: 2\nnum.partitions: 2\nlog.segment.bytes: 2000000\nchronik.wal.profile: low\nbroker.rack: r\n";
    let yaml = file(".yaml", text);
    let env = around(&[
        ("CHRONIK_NUM_PARTITIONS", "3"),
        ("CHRONIK_LOG_SEGMENT_BYTES", "3000000"),
        ("CHRONIK_WAL_PROFILE", "medium"),
    ]);
    let args = BrokerArgs {
        config: Some(yaml.path().into()),
        wal_profile: Some("ultra".into()),
        listen: Some("127.0.0.1:0".into()),
        set: vec!["log.segment.bytes=5000000".into()],
        ..BrokerArgs::default()
    };
    let c = Config::load(&args, &env).unwrap();
    assert_eq!(
        (c.broker_id, c.rack.as_deref(), c.value_of("num.partitions")),
        (BrokerId(2), Some("r"), Some("3"))
    );
    assert_eq!(
        (c.wal_profile.as_str(), c.local().settings["log.segment.bytes"].as_str()),
        ("ultra", "5000000")
    );
    assert_eq!(c.listeners[0].bind.to_string(), "127.0.0.1:0");
    assert_eq!(c.set_keys["num.partitions"].1.to_string(), "environment variable CHRONIK_NUM_PARTITIONS");
    assert_eq!((c.value_of("node.id"), c.value_of("max.connections")), (Some("2"), Some("10000")));
}

#[test]
fn each_error_names_key_value_origin_and_what_is_allowed() {
    let properties = file(".properties", "num.partitions=none\nfetch.max.bytes = 2000\n");
    let args = BrokerArgs {
        config: Some(properties.path().into()),
        wal_engine: Some("maybe".into()),
        set: vec!["nonsense".into(), "num.partition=1".into()],
        ..BrokerArgs::default()
    };
    let all = Config::load(&args, &around(&[("CHRONIK_BROKER_ID", "-1")])).unwrap_err().to_string();
    let name = properties.path().display();
    for line in [
        "--set \"nonsense\": write NAME=VALUE".to_string(),
        "unknown key \"num.partition\" (--set); did you mean num.partitions?".to_string(),
        "broker.id=\"-1\" (environment variable CHRONIK_BROKER_ID): must be a whole number from 0 to 2147483647".to_string(),
        format!("num.partitions=\"none\" (file {name}): must be a whole number from 1 to 2147483647"),
        "chronik.wal.engine=\"maybe\" (flag --wal-engine): must be one of auto, required, disabled".to_string(),
    ] {
        assert!(all.contains(&line), "{line}\nis not in\n{all}");
    }
}

#[test]
fn keys_that_do_not_act_are_refused() {
    for key in ["num.io.threads", "zookeeper.connect", "ssl.keystore.location", "log.flush.interval.messages"]
    {
        assert!(errors(&[(key, "1")]).starts_with(&format!("unknown key {key:?}")), "{key}");
    }
    let refused = errors(&[("compression.type", "gzip")]);
    assert!(refused.contains("compression.type=\"gzip\" (--set): must be producer: "), "{refused}");
}

#[test]
fn two_names_of_one_key_must_agree() {
    let agree = file(".yml", "broker.id: 4\nnode.id: 4\n");
    let args = BrokerArgs { config: Some(agree.path().into()), ..BrokerArgs::default() };
    assert_eq!(Config::load(&args, &around(&[])).unwrap().broker_id, BrokerId(4));
    let differ = file(".yml", "broker.id: 4\nnode.id: 5\n");
    let args = BrokerArgs { config: Some(differ.path().into()), ..BrokerArgs::default() };
    let e = Config::load(&args, &around(&[])).unwrap_err().to_string();
    assert!(
        e.contains("node.id=\"5\"") && e.contains("broker.id is another name for it, and says \"4\""),
        "{e}"
    );
}

#[test]
fn what_keys_must_agree_on() {
    for (pairs, word) in [
        (&[("chronik.request.memory.bytes", "2000000")][..], "socket.request.max.bytes"),
        (&[("chronik.wal.size.bytes", "67108864")][..], "four WAL files"),
        (&[("message.max.bytes", "90000000")][..], "chronik.wal.file.bytes"),
        (&[("chronik.wal.profile", "turbo")][..], "one of the WAL profiles: high, low, medium, ultra"),
        (&[("inter.broker.listener.name", "INSIDE")][..], "one of the listeners: PLAINTEXT"),
        (&[("listeners", "PLAINTEXT://0.0.0.0:9092")][..], "advertised.listeners"),
        (&[("chronik.admin.listen", "nowhere")][..], "HOST:PORT, or none"),
        (&[("chronik.cluster.id", "a b")][..], "letters, digits"),
    ] {
        let e = errors(pairs);
        assert!(e.contains(word) && e.contains(pairs[0].0), "{e}");
    }
    assert_eq!(Config::of(&[("chronik.admin.listen", "none")]).unwrap().admin_listen, None);
}

#[test]
fn profiles_are_changed_and_defined_by_field() {
    let c = Config::of(&[
        ("chronik.wal.profile.low.max.delay.us", "500"),
        ("chronik.wal.profile.bulk.policy", "hybrid"),
        ("chronik.wal.profile", "bulk"),
    ])
    .unwrap();
    let ops: Vec<_> = c.wal_profile_ops().into_iter().map(|op| (op.name, op.value.unwrap())).collect();
    let set = |name: &str, value: &str| (format!("chronik.wal.profile.{name}"), value.to_string());
    assert_eq!(ops, [set("bulk.policy", "hybrid"), set("low.max.delay.us", "500")]);
    assert_eq!(c.wal_profiles["low"].max_delay_us, 500);
    assert_eq!(c.wal_profiles["bulk"].policy.name(), "hybrid");
    assert_eq!(c.wal_profiles["bulk"].max_queue_records, c.wal_profiles["high"].max_queue_records);
    for (key, value, word) in [
        ("chronik.wal.profile.bulk.size", "1", "unknown WAL profile field"),
        ("chronik.wal.profile.b!.policy", "fixed", "WAL profile name"),
        ("chronik.wal.profile.low.ack", "maybe", "durable or buffered"),
    ] {
        let e = errors(&[(key, value)]);
        assert!(e.contains(word) && e.contains(key), "{e}");
    }
}

#[test]
fn settings_of_consumer_groups_fit_together() {
    let e = errors(&[("group.consumer.session.timeout.ms", "1000")]);
    assert!(
        e.contains("group.consumer.session.timeout.ms=\"1000\" (--set): must be greater than or equal to"),
        "{e}"
    );
    let low =
        [("group.consumer.min.session.timeout.ms", "1000"), ("group.consumer.session.timeout.ms", "1000")];
    let e = errors(&low);
    assert!(e.contains("must be greater than group.consumer.heartbeat.interval.ms"), "{e}");
    let lower = [
        ("group.consumer.min.heartbeat.interval.ms", "100"),
        ("group.consumer.heartbeat.interval.ms", "100"),
    ];
    assert!(Config::of(&[&low[..], &lower[..]].concat()).is_ok());
    let e = errors(&[("group.coordinator.rebalance.protocols", "consumer")]);
    assert!(e.contains("some of classic, consumer, with commas between them, classic among them"), "{e}");
}

#[test]
fn a_stray_variable_is_mentioned_and_kubernetes_own_are_not() {
    let env = around(&[
        ("CHRONIK_NUM_PARTITION", "3"),
        ("CHRONIK_SERVICE_HOST", "10.0.0.1"),
        ("CHRONIK_BOOTSTRAP_SERVICE_PORT_KAFKA", "9092"),
        ("CHRONIK_PORT", "tcp://10.0.0.1:9092"),
        ("CHRONIK_PORT_9092_TCP_ADDR", "10.0.0.1"),
    ]);
    let notes = Config::load(&BrokerArgs::default(), &env).unwrap().notes;
    assert_eq!(
        notes,
        ["environment variable CHRONIK_NUM_PARTITION is no configuration key and was not used"]
    );
}

#[test]
fn the_hash_follows_the_values_and_not_their_source() {
    let plain = Config::of(&[]).unwrap();
    assert_eq!(plain.hash(), Config::of(&[("num.partitions", "1")]).unwrap().hash());
    assert_ne!(plain.hash(), Config::of(&[("num.partitions", "2")]).unwrap().hash());
    assert_eq!(plain.hash().len(), 16);
}

#[test]
fn a_missing_file_is_named() {
    let args = BrokerArgs { config: Some("/nonexistent/c.yaml".into()), ..BrokerArgs::default() };
    let e = Config::load(&args, &around(&[])).unwrap_err().to_string();
    assert!(e.starts_with("configuration file /nonexistent/c.yaml: "), "{e}");
}

#[test]
fn a_placed_broker_leaves_its_addresses_to_its_placement() {
    let placed = [("listeners", "PLAINTEXT://0.0.0.0:9092"), ("chronik.placement.dir", "/placement")];
    let c = Config::of(&placed).unwrap();
    assert_eq!(c.listeners[0].advertised, c.listeners[0].bind);
    let given = c.advertise("plaintext://b1:19092").unwrap();
    assert_eq!(given[0].advertised.to_string(), "b1:19092");
    assert!(c.advertise("").unwrap_err().contains("accepts on every address"));
    for (key, value) in [("advertised.listeners", "PLAINTEXT://b1:9092"), ("broker.rack", "a")] {
        let e = errors(&[&placed[..], &[(key, value)]].concat());
        assert!(e.starts_with(&format!("{key}={value:?} (--set): leave it out")), "{e}");
    }
    assert!(
        errors(&[("chronik.placement.dir", "/p"), ("listeners", "nonsense")]).contains("NAME://HOST:PORT")
    );
}

#[test]
fn a_configuration_is_checked_without_being_used() {
    let running =
        Config::of(&[("broker.id", "7"), ("chronik.data.dir", "/data"), ("num.partitions", "3")]).unwrap();
    let fine = "chronik.cluster.id: mine\nlisteners: INTERNAL://0.0.0.0:9092\n\
                listener.security.protocol.map: INTERNAL:PLAINTEXT\nchronik.placement.dir: /placement\n";
    for text in ["", "# nothing\n", fine, "node.id: 7", "broker.id: \"7\"", "chronik.data.dir: /elsewhere"] {
        assert_eq!(running.check(text, "mine"), Vec::<String>::new(), "{text}");
    }
    for (text, words) in [
        ("num.partitions: none", "num.partitions=\"none\" (file broker.yaml): must be a whole number"),
        (
            "num.partition: 1",
            "unknown key \"num.partition\" (file broker.yaml); did you mean num.partitions?",
        ),
        ("broker.id: 8", "broker.id=\"8\" (file broker.yaml): must be 7, whose data are here"),
        ("chronik.cluster.id: yours", "chronik.cluster.id=\"yours\" (file broker.yaml): must be mine"),
        ("broker: {id: 7}", "configuration file broker.yaml: broker must be text"),
        ("a: [", "configuration file broker.yaml: "),
        ("listeners: PLAINTEXT://0.0.0.0:9092", "advertised.listeners must say"),
    ] {
        let errors = running.check(text, "mine");
        assert!(errors.len() == 1 && errors[0].contains(words), "{text}: {errors:?}");
    }
    let all = running.check("num.partitions: 0\nfetch.max.bytes: 1\nnonsense: 1", "mine");
    assert_eq!(all.len(), 3, "{all:?}");
}
