//! What another version of the program has left: recorded once with its binary, replayed for today's.
//!
//! ```text
//!  tests/fixtures/upgrade/VERSION/
//!    MODE/serving/node-ing1.sh, pod-echo-1.sh, …    three pods serve: `agent --dry-run` of that version, namespace by namespace
//!    MODE/draining/node-ing1.sh, …                  what it does next when echo-1 is not ready any more
//!    MODE/configmaps.json                           the bucket map and the reports at that moment
//!    second_chance.o                                its BPF program, which the scripts attach with `tc`
//! ```
//!
//! Both happen in [`world`]. What differs between two labs (UIDs, devices, MAC addresses) stands there as `{uid echo-1}`,
//! `{device echo-1}`, `{mac ing1}`.
//! Scripts are run by `sh`, with `ip`, `nft` and `tc`: nothing of today's program takes part in a replay, except that the
//! keys of the BPF tables are laid out by it.

mod program;
mod record;
mod replay;

use std::path::{Path, PathBuf};

use anyhow::Result;
use tunnel_router::model::Mode;

use crate::lab::PodSpec;
use crate::world::echo::{ANNOTATION, SERVICE, VIP, VIP6, load_modules};
use crate::world::{World, WorldSpec};

pub use record::record;
pub use replay::Fixture;

/// The pods, and their nodes. The first one is the one that drains.
pub const PODS: [(&str, &str); 3] = [("echo-1", "wrk1"), ("echo-2", "wrk2"), ("echo-3", "ing1")];

/// Flags of the controller: few buckets make short scripts, and datagrams move at once.
pub const CONTROLLER: [&str; 4] = ["--buckets", "16", "--drain-udp", "0"];

/// The files of a fixture.
struct Files {
    /// The version's directory.
    version: PathBuf,
    mode: Mode,
}

impl Files {
    /// Those of this repository.
    fn of(version: &str, mode: Mode) -> Files {
        let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/upgrade");
        Files { version: all.join(version), mode }
    }

    /// The scripts of one stage.
    fn scripts(&self, stage: &str) -> PathBuf {
        self.version.join(self.mode.as_str()).join(stage)
    }

    fn config_maps(&self) -> PathBuf {
        self.version.join(self.mode.as_str()).join("configmaps.json")
    }

    /// The same for all modes.
    fn object(&self) -> PathBuf {
        self.version.join("second_chance.o")
    }
}

/// The world in which everything is recorded and replayed. Nothing of ours runs in it yet.
///
/// # Errors
/// The lab cannot be built.
pub async fn world(mode: Mode) -> Result<World> {
    // The scripts set sysctls that exist only when their module is there.
    load_modules();
    let flags = vec!["--buckets".to_owned(), "16".to_owned()];
    let mut world = World::build(WorldSpec { flags, ..WorldSpec::new(mode) }).await?;
    world.add_pods(PODS.map(|(name, node)| (PodSpec::new(name, node), "echo")).into()).await?;
    world.add_dual_service(SERVICE, "echo", &[(ANNOTATION, &format!("{VIP},{VIP6}"))])?;
    Ok(world)
}

/// What is called otherwise in each lab: a placeholder and what stands for it in this one.
struct Names(Vec<(String, String)>);

impl Names {
    async fn of(world: &World) -> Result<Names> {
        let mut names = vec![(format!("{{uid {SERVICE}}}"), world.service_uid(SERVICE)?)];
        for (name, _) in PODS {
            let pod = world.lab.pod(name)?;
            names.push((format!("{{uid {name}}}"), pod.uid().to_owned()));
            names.push((format!("{{device {name}}}"), pod.host_device().to_owned()));
        }
        for node in world.lab.nodes() {
            let mac = node.stack().mac("eth0").await?.map(|byte| format!("{byte:02x}")).join(":");
            names.push((format!("{{mac {}}}", node.name()), mac));
        }
        Ok(Names(names))
    }

    fn to_placeholders(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (placeholder, value)| text.replace(value, placeholder))
    }

    fn of_placeholders(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (placeholder, value)| text.replace(placeholder, value))
    }
}
