//! `chronik-operator`: command line, leader election, and the two reconcilers.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use chronik_operator::context::{Context, Options};
use chronik_operator::http::Server;
use chronik_operator::leader::Leader;
use chronik_operator::metrics::Metrics;
use chronik_operator::{cluster, seccomp, topic};
use clap::{Args, Parser, Subcommand};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing_subscriber::EnvFilter;

/// Keeps Chronik clusters and their topics as their objects say.
#[derive(Parser)]
#[command(name = "chronik-operator", version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator (also what happens without a command)
    Run(RunArgs),
    /// Keep a seccomp profile in a node's directory (what the chart's DaemonSet runs)
    InstallSeccomp(seccomp::Args),
}

#[derive(Args)]
struct RunArgs {
    /// Namespaces to work in, separated by commas; none: all of them
    #[arg(long, env = "CHRONIK_OPERATOR_NAMESPACES", value_delimiter = ',')]
    namespaces: Vec<String>,
    /// The image of brokers whose cluster names none
    #[arg(long, env = "CHRONIK_BROKER_IMAGE", default_value = "localhost/chronik-broker:dev")]
    broker_image: String,
    /// The DNS domain of the Kubernetes cluster
    #[arg(long, env = "CHRONIK_OPERATOR_CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Where /livez, /readyz and /metrics are served
    #[arg(long, env = "CHRONIK_OPERATOR_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    #[arg(long, env = "CHRONIK_OPERATOR_LEASE_NAME", default_value = "chronik-operator")]
    lease_name: String,
    /// Not set: the operator's own namespace
    #[arg(long)]
    lease_namespace: Option<String>,
    /// The operator's own namespace; its pods may reach the brokers' admin port
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: Option<String>,
    /// This process's name among the operator's replicas
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// Reconcile without holding a lease; for a single process outside of Kubernetes
    #[arg(long, env = "CHRONIK_OPERATOR_NO_LEADER_ELECTION")]
    no_leader_election: bool,
    /// How often an object is looked at when nothing happens
    #[arg(long, env = "CHRONIK_OPERATOR_RESYNC_SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    resync_seconds: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let filter = match std::env::var("CHRONIK_OPERATOR_LOG") {
        Ok(text) => EnvFilter::try_new(&text).with_context(|| format!("CHRONIK_OPERATOR_LOG={text}"))?,
        Err(_) => EnvFilter::new("info"),
    };
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    match cli.command {
        None => run(cli.run).await,
        Some(Command::Run(args)) => run(args).await,
        Some(Command::InstallSeccomp(args)) => seccomp::run(args).await,
    }
}

async fn run(args: RunArgs) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stopped = async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    };
    let metrics = Arc::new(Metrics::default());
    let server = Server::new(metrics.clone());
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    tracing::info!("health and metrics on http://{}/metrics", listener.local_addr()?);
    let (stop_http, http_stops) = tokio::sync::oneshot::channel::<()>();
    let http = tokio::spawn(server.clone().serve(listener, async move {
        let _ = http_stops.await;
    }));

    let outcome = work(args, metrics, &server, stopped).await;
    drop(stop_http);
    // Whoever reads metrics at this moment gets the answer; a connection that is kept open is not waited for.
    let _ = tokio::time::timeout(Duration::from_millis(500), http).await;
    outcome
}

/// Waits for the lease, then reconciles until it is told to stop or the lease is lost.
async fn work(
    args: RunArgs,
    metrics: Arc<Metrics>,
    server: &Server,
    stopped: impl Future<Output = ()>,
) -> Result<()> {
    let mut stopped = pin!(stopped);
    let config = kube::Config::infer().await.context("no way to the Kubernetes API")?;
    let namespace = args.namespace.unwrap_or_else(|| config.default_namespace.clone());
    let lease_namespace = args.lease_namespace.unwrap_or_else(|| namespace.clone());
    let identity = args.identity.unwrap_or_else(|| format!("chronik-operator-{}", std::process::id()));
    let client = kube::Client::try_from(config).context("no way to the Kubernetes API")?;
    tokio::select! {
        () = reach(&client) => server.is_ready(),
        () = &mut stopped => return Ok(()),
    }

    let mut leader = (!args.no_leader_election)
        .then(|| Leader::new(client.clone(), &lease_namespace, &args.lease_name, &identity));
    if let Some(leader) = &mut leader {
        tokio::select! {
            () = leader.acquire() => (),
            () = &mut stopped => {
                // It may have become ours at this very moment.
                leader.release().await;
                return Ok(());
            }
        }
    }
    metrics.leads(true);
    let options = Options {
        namespaces: args
            .namespaces
            .into_iter()
            .map(|n| n.trim().to_string())
            .filter(|n| !n.is_empty())
            .collect(),
        broker_image: args.broker_image,
        cluster_domain: args.cluster_domain,
        resync: Duration::from_secs(args.resync_seconds),
        identity,
        operator_namespace: namespace,
    };
    let ctx = Arc::new(Context::new(client, options, metrics.clone()));
    let mut reconcilers = JoinSet::new();
    reconcilers.spawn(cluster::run(ctx.clone()));
    reconcilers.spawn(topic::run(ctx));
    let kept = async {
        match &mut leader {
            Some(leader) => leader.keep().await,
            None => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        () = &mut stopped => Ok(()),
        // Another may act from now on: this process ends at once.
        lost = kept => bail!("{lost}"),
        ended = reconcilers.join_next() => Err(anyhow!("a reconciler ended: {ended:?}")),
    };
    reconcilers.shutdown().await;
    metrics.leads(false);
    if let Some(leader) = &mut leader {
        leader.release().await;
    }
    outcome
}

/// Waits until the Kubernetes API answers.
async fn reach(client: &kube::Client) {
    loop {
        match client.apiserver_version().await {
            Ok(version) => {
                tracing::info!("Kubernetes {}", version.git_version);
                return;
            }
            Err(e) => tracing::warn!("the Kubernetes API does not answer: {e}"),
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
