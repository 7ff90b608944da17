//! The `tunnel-router` program: reads the command line, sets up logging, runs one command.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use nix::unistd::gethostname;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tunnel_router::agent::{cleanup, drain_node, dry_run, refuse, run};
use tunnel_router::cli::{
    Cli, Command, Host, agent_config, cleanup_config, controller_config, drain_node_config, load_modules_config,
    status_config, trace_config,
};
use tunnel_router::controller;
use tunnel_router::inspect;
use tunnel_router::kernel::bpf::OBJECT;
use tunnel_router::kernel::{load_modules, use_proc_root};
use tunnel_router::model::config::{CleanupConfig, Config, ControllerConfig, LogConfig, LogFormat};

fn main() -> ExitCode {
    let result = match Cli::parse() {
        Command::Agent(args) => agent_config(&args, &host()).map_err(Into::into).and_then(agent),
        Command::Controller(args) => controller_config(&args, &host()).map_err(Into::into).and_then(control),
        Command::Status(args) => status_config(&args).map_err(Into::into).and_then(|config| {
            init_logging(&config.log);
            inspect::command::status(&config)
        }),
        Command::Trace(args) => trace_config(&args).map_err(Into::into).and_then(|config| {
            init_logging(&config.log);
            inspect::command::trace(&config)
        }),
        Command::Cleanup(args) => cleanup_config(&args).map_err(Into::into).and_then(|config| clean_up(&config)),
        Command::DrainNode(args) => drain_node_config(&args).map_err(Into::into).and_then(|config| {
            init_logging(&config.log);
            drain_node::drain_node(&config)
        }),
        Command::LoadModules(args) => load_modules_config(&args).map_err(Into::into).map(|log| {
            init_logging(&log);
            tell_modules();
        }),
        Command::Wait => wait(),
        Command::BpfObject => bpf_object(),
        Command::Version => {
            println!("tunnel-router {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tunnel-router: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn host() -> Host {
    Host {
        node_name: std::env::var("NODE_NAME").ok(),
        hostname: gethostname().ok().and_then(|name| name.into_string().ok()),
    }
}

fn agent(config: Config) -> anyhow::Result<()> {
    init_logging(&config.log);
    use_proc_root(&config.kernel.proc_root);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        tokio::spawn(cancel_on_signal(shutdown.clone())?);
        if config.dry_run { dry_run::dry_run(config, shutdown).await } else { run::run(config, shutdown).await }
    });
    // A round that is under way may finish or not: what it leaves is what the next start finds.
    runtime.shutdown_background();
    result
}

fn control(config: ControllerConfig) -> anyhow::Result<()> {
    init_logging(&config.log);
    current_thread()?.block_on(async {
        let shutdown = CancellationToken::new();
        tokio::spawn(cancel_on_signal(shutdown.clone())?);
        controller::run(config, shutdown).await
    })
}

fn wait() -> anyhow::Result<()> {
    current_thread()?.block_on(async {
        cancel_on_signal(CancellationToken::new())?.await;
        Ok(())
    })
}

fn current_thread() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// A future that waits for SIGTERM or SIGINT; the handlers are in place when this returns.
fn cancel_on_signal(shutdown: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        shutdown.cancel();
    })
}

fn clean_up(config: &CleanupConfig) -> anyhow::Result<()> {
    init_logging(&config.log);
    use_proc_root(&config.kernel.proc_root);
    if let Some(agents) = &config.unless {
        current_thread()?.block_on(refuse::refuse(agents))?;
    }
    let errors = cleanup::cleanup(config).errors;
    anyhow::ensure!(errors.is_empty(), "clean-up is incomplete: {}", errors.join("; "));
    Ok(())
}

/// A module that is built in, or lacking, is no failure here: the agent tries at its start what it needs.
fn tell_modules() {
    let (loaded, lacking): (Vec<_>, Vec<_>) = load_modules().into_iter().partition(|(_, result)| result.is_ok());
    for (module, result) in &lacking {
        let why = result.as_ref().err().map(String::as_str).unwrap_or_default();
        tracing::info!(module, why, "module not loaded");
    }
    tracing::info!(loaded = loaded.len(), others = lacking.len(), "modules loaded");
}

fn bpf_object() -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    anyhow::ensure!(!stdout.is_terminal(), "this is not text: use tunnel-router bpf-object > second_chance.o");
    Ok(stdout.write_all(OBJECT)?)
}

fn init_logging(log: &LogConfig) {
    // The client library logs every attempt while the API server is away; we say once when that begins, and when it ends.
    let filter = EnvFilter::new(format!("kube_client=off,{}", log.level));
    let coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(coloured);
    match log.format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Text => builder.with_target(false).init(),
    }
}
