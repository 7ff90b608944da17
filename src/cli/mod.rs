//! The command line: `tunnel-router agent|controller|status|trace|cleanup|drain-node|load-modules|wait|bpf-object|version`.
//!
//! `args` declares the flags and explains them, `validate` turns them into a [`Config`](crate::model::Config). Values stay text until then, so
//! that everything that is wrong is reported in one go, and a pod with three typos does not crash three times.

mod args;
mod parse;
mod validate;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use args::{
    AgentArgs, ApiArgs, CleanupArgs, ControllerArgs, DrainNodeArgs, EncapsulationArgs, HashArgs, KernelArgs,
    KubernetesArgs, LoadModulesArgs, LogArgs, ObservabilityArgs, StatusArgs, TraceArgs,
};
pub use validate::{
    ConfigErrors, Host, Invalid, agent_config, cleanup_config, controller_config, drain_node_config, env_of,
    load_modules_config, status_config, trace_config,
};

/// Delivers packets for a Service's external address, as plain IP packets, into the pods of the Service.
#[derive(Debug, Clone, Parser)]
#[command(name = "tunnel-router", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Run on this node: tunnel packets into pods, and set local pods up to receive them
    ///
    /// Needs CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_SYS_PTRACE in the node's network namespace, and the node's /proc. Kernel state stays
    /// when the agent exits, so that an upgrade interrupts nothing; `cleanup` removes it.
    Agent(Box<AgentArgs>),
    /// Decide for all nodes which pod gets which share of the flows, and store it in the cluster
    ///
    /// Run two: one of them leads, elected by a Lease, and each does nothing but talk to the Kubernetes API. Agents follow
    /// what is stored, also while no controller runs.
    Controller(Box<ControllerArgs>),
    /// Show this node's VIPs, who has which share of them, what drains, and what is wrong
    ///
    /// Asks the agent of this node, and compares what it means to do with what the kernel holds. Without an agent it shows what
    /// the kernel does. Run it on the node or in the agent's pod, as root.
    Status(StatusArgs),
    /// Show the way of one flow from this node: bucket, table, endpoint, encapsulation, path MTU
    ///
    /// Computed from the rules and routes as they are in the kernel, and compared with the agent and with what the kernel
    /// answers itself (`ip route get`). Exits with 1 if they disagree. Works without an agent, too.
    Trace(TraceArgs),
    /// Remove everything that the agent made on this node and in its pods
    ///
    /// Give it the same values as the agent had: they say what is the agent's.
    Cleanup(Box<CleanupArgs>),
    /// Stop announcing this node's VIPs, or start again
    ///
    /// Routers send their packets to other nodes; what still comes is forwarded, and no connection is lost. It holds until
    /// `drain-node --undo`, also over restarts of the agent, but not of the node. With --announce-table only.
    DrainNode(DrainNodeArgs),
    /// Load the kernel modules that any mode needs
    ///
    /// Needs CAP_SYS_MODULE and the node's /lib/modules. An init container runs it, so that the agent needs neither. What cannot be
    /// loaded is told and no failure: it may be built in, and the agent says itself what it lacks.
    LoadModules(LoadModulesArgs),
    /// Do nothing until SIGTERM, and end
    ///
    /// For the container of a pod whose init containers have done the work, as after a clean-up.
    Wait,
    /// Write the BPF program for second chances to standard output, as an object for `tc`
    ///
    /// The commands that --dry-run prints take it as a file: tunnel-router bpf-object > second_chance.o. It is one of the
    /// few things in this program that are not text, so it is not written to a terminal.
    BpfObject,
    /// Print the version
    Version,
}

impl Cli {
    /// Reads the command line and the environment of the process. On a wrong command line, and for `--help`, prints what
    /// there is to say and exits.
    pub fn parse() -> Command {
        <Cli as Parser>::parse().command
    }

    /// Reads a command line, program name first, and the environment of the process.
    ///
    /// # Errors
    /// For unknown flags and subcommands; also for `--help` and `--version`, which clap reports as errors.
    pub fn try_parse_from<I, S>(words: I) -> Result<Command, clap::Error>
    where
        I: IntoIterator<Item = S>,
        S: Into<std::ffi::OsString> + Clone,
    {
        let matches = Cli::command().try_get_matches_from(words)?;
        Ok(Cli::from_arg_matches(&matches)?.command)
    }
}
