//! `chronik configs`: see and alter settings, of brokers, of topics, and of what is logged.

use std::io::Write;

use anyhow::{Result, bail};
use chronik_client::{Client, ConfigDetails, ConfigSource, Resource};
use clap::{Args, Subcommand};

use super::topics::source;
use super::{Server, key_value, runtime, table};

/// See and alter settings
#[derive(Debug, Args)]
#[command(mut_arg("bootstrap", |arg| arg.global(true)))]
pub struct ConfigsArgs {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show settings
    Describe {
        #[command(flatten)]
        of: Of,
        /// Only these, with all that is known of them
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Also those at their defaults
        #[arg(long)]
        all: bool,
    },
    /// Alter settings while the broker runs
    Alter {
        #[command(flatten)]
        of: Of,
        /// Set a setting
        #[arg(long, short, value_name = "NAME=VALUE", value_parser = key_value)]
        config: Vec<(String, String)>,
        /// Set a setting back to what it is otherwise
        #[arg(long, value_name = "NAME")]
        reset: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Of {
    /// All brokers
    #[arg(long)]
    cluster: bool,
    /// One broker, by its id
    #[arg(long, value_name = "ID")]
    broker: Option<i32>,
    /// A topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// What a broker logs, by its id
    #[arg(long, value_name = "ID")]
    loggers: Option<i32>,
}

impl Of {
    fn resource(self) -> Resource {
        match self {
            Of { topic: Some(topic), .. } => Resource::Topic(topic),
            Of { broker: Some(id), .. } => Resource::Broker(id),
            Of { loggers: Some(id), .. } => Resource::Loggers(id),
            Of { .. } => Resource::ClusterDefault,
        }
    }
}

/// Runs `chronik configs`. Not to be called inside an async runtime: it brings its own.
///
/// # Errors
/// In words for the user; refusals by Kafka's name.
pub fn run(args: ConfigsArgs) -> Result<()> {
    runtime()?.block_on(async {
        let mut client = args.server.connect().await?;
        let mut out = std::io::stdout().lock();
        match args.command {
            Command::Describe { of, names, all } => {
                let resource = of.resource();
                let settings = client.config_details(&resource, &names).await?;
                if let Some(name) = names.iter().find(|name| !settings.iter().any(|s| s.entry.name == **name))
                {
                    bail!("{resource} has no setting {name}");
                }
                if names.is_empty() {
                    return list(&resource, settings, all, &mut out);
                }
                settings.iter().try_for_each(|setting| show(setting, &mut out))
            }
            Command::Alter { of, config, reset } => {
                alter(&mut client, &of.resource(), config, reset, &mut out).await
            }
        }
    })
}

fn list(
    resource: &Resource,
    mut settings: Vec<ConfigDetails>,
    all: bool,
    out: &mut impl Write,
) -> Result<()> {
    settings.sort_by(|one, other| one.entry.name.cmp(&other.entry.name));
    if let Resource::Loggers(_) = resource {
        let mut rows = vec![["LOGGER", "LEVEL"].map(str::to_owned).to_vec()];
        rows.extend(settings.into_iter().map(|s| vec![s.entry.name.clone(), value(&s)]));
        return table(out, rows);
    }
    settings.retain(|s| all || s.entry.source != ConfigSource::Default);
    if settings.is_empty() {
        return Ok(writeln!(out, "Nothing is set on {resource} (--all shows what there is).")?);
    }
    let mut rows = vec![["SETTING", "VALUE", "FROM", "LIVE"].map(str::to_owned).to_vec()];
    rows.extend(settings.into_iter().map(|s| {
        let live = if s.entry.read_only { "-" } else { "yes" };
        vec![s.entry.name.clone(), value(&s), source(s.entry.source), live.to_owned()]
    }));
    table(out, rows)
}

fn value(setting: &ConfigDetails) -> String {
    let shown = |value: &str| if value.is_empty() { "\"\"".to_owned() } else { value.to_owned() };
    match &setting.entry.value {
        Some(value) => shown(value),
        None if setting.sensitive => "(secret)".to_owned(),
        None => "-".to_owned(),
    }
}

fn show(setting: &ConfigDetails, out: &mut impl Write) -> Result<()> {
    let entry = &setting.entry;
    writeln!(out, "{}", entry.name)?;
    if !setting.documentation.is_empty() {
        writeln!(out, "  {}", setting.documentation)?;
    }
    let live = if entry.read_only { "is set where the broker is started" } else { "can be altered live" };
    let kind = if setting.kind.is_empty() { String::new() } else { format!("{}, ", setting.kind) };
    writeln!(out, "  Value  {} ({kind}{live})", value(setting))?;
    writeln!(out, "  From   {}", source(entry.source))?;
    for behind in setting.synonyms.iter().skip(1) {
        let value = behind.value.as_deref().unwrap_or("(secret)");
        writeln!(out, "  Else   {value} from {}, {}", source(behind.source), behind.name)?;
    }
    Ok(())
}

async fn alter(
    client: &mut Client,
    resource: &Resource,
    config: Vec<(String, String)>,
    reset: Vec<String>,
    out: &mut impl Write,
) -> Result<()> {
    if config.is_empty() && reset.is_empty() {
        bail!("nothing to alter: give --config or --reset");
    }
    let set = config.into_iter().map(|(name, value)| (name, Some(value)));
    let changes: Vec<_> = set.chain(reset.into_iter().map(|name| (name, None))).collect();
    client.alter_configs(resource, &changes).await?;
    for (name, value) in &changes {
        match value {
            Some(value) => writeln!(out, "On {resource}, {name} is now {value}.")?,
            None => writeln!(out, "On {resource}, {name} is not set any more.")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use chronik_client::{ConfigEntry, ConfigSynonym};

    fn setting(name: &str, value: Option<&str>, source: ConfigSource, read_only: bool) -> ConfigDetails {
        ConfigDetails {
            entry: ConfigEntry { name: name.to_owned(), value: value.map(str::to_owned), source, read_only },
            sensitive: false,
            kind: "int",
            synonyms: vec![],
            documentation: "What it is.".to_owned(),
        }
    }

    fn listed(resource: &Resource, settings: &[ConfigDetails], all: bool) -> String {
        let mut out = Vec::new();
        list(resource, settings.to_vec(), all, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn settings_are_listed_by_name_and_defaults_when_asked_for() {
        let settings = [
            setting("b.secret", None, ConfigSource::Static, true),
            setting("b.list", Some(""), ConfigSource::ClusterDefault, false),
            setting("a.number", Some("7"), ConfigSource::Default, false),
        ];
        let settings = settings.map(|s| ConfigDetails { sensitive: s.entry.name == "b.secret", ..s });
        let broker = Resource::Broker(1);
        assert_eq!(
            listed(&broker, &settings, true),
            "SETTING   VALUE     FROM           LIVE\n\
             a.number  7         default        yes\n\
             b.list    \"\"        cluster, live  yes\n\
             b.secret  (secret)  broker         -\n"
        );
        assert!(!listed(&broker, &settings, false).contains("a.number"));
        let none = listed(&Resource::ClusterDefault, &settings[2..], false);
        assert_eq!(none, "Nothing is set on the cluster (--all shows what there is).\n");
        let loggers = [setting("root", Some("INFO"), ConfigSource::Other(6), false)];
        assert_eq!(listed(&Resource::Loggers(1), &loggers, false), "LOGGER  LEVEL\nroot    INFO\n");
    }

    #[test]
    fn one_setting_is_shown_with_what_stands_behind_it() {
        let synonym = |value: &str, source| ConfigSynonym {
            name: "message.max.bytes".to_owned(),
            value: Some(value.to_owned()),
            source,
        };
        let shown = ConfigDetails {
            synonyms: vec![synonym("7", ConfigSource::Broker), synonym("9", ConfigSource::Default)],
            ..setting("message.max.bytes", Some("7"), ConfigSource::Broker, false)
        };
        let mut out = Vec::new();
        show(&shown, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "message.max.bytes\n  What it is.\n  Value  7 (int, can be altered live)\n  \
             From   broker, live\n  Else   9 from default, message.max.bytes\n"
        );
    }
}
