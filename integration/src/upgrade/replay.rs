//! Replaying: the scripts make the kernel objects, and the ConfigMaps are put into the API, as that version had left them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tunnel_router::model::handover::Assignment;
use tunnel_router::state::assignment::{MAP_KEY, decode};

use super::{Names, PODS, directory, program};
use crate::netns::Netns;
use crate::world::World;
use crate::world::echo::{SERVICE, VIP, VIP6};

/// The recorded state of a version, in the names of one world.
pub struct Fixture {
    directory: PathBuf,
    names: Names,
}

impl Fixture {
    /// The fixture of a version, for a world of [`super::world`].
    ///
    /// # Errors
    /// The world is another one.
    pub fn of(version: &str, world: &World) -> Result<Fixture> {
        Ok(Fixture { directory: directory(version), names: Names::of(world)? })
    }

    /// Makes the kernel objects of nodes and pods that serve, and tells the pods' programs who is who.
    ///
    /// # Errors
    /// A script fails.
    pub fn serve(&self, world: &World) -> Result<()> {
        run(world, &self.names, &self.directory, "serving")?;
        let map = self.map(world)?;
        PODS.iter().try_for_each(|(pod, _)| program::tell(world.lab.pod(pod)?.netns(), &[VIP, VIP6], &map))
    }

    /// Stores the ConfigMaps and makes the first pod drain: it is not ready any more.
    ///
    /// # Errors
    /// A script fails.
    pub fn drain(&self, world: &World) -> Result<()> {
        world.set_ready(PODS[0].0, false)?;
        for object in self.config_maps()? {
            world.api.store().create(object)?;
        }
        run(world, &self.names, &self.directory, "draining")
    }

    fn config_maps(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.directory.join("configmaps.json"))?;
        Ok(serde_json::from_str(&self.names.of_placeholders(&text))?)
    }

    /// The stored bucket map.
    ///
    /// # Errors
    /// Today's program cannot read it.
    pub fn map(&self, world: &World) -> Result<Assignment> {
        let name = world.map_name(SERVICE)?;
        let all = self.config_maps()?;
        let stored = all.iter().find(|object| object["metadata"]["name"] == name.as_str()).context("a map")?;
        Ok(decode(stored["data"][MAP_KEY].as_str(), &world.service_uid(SERVICE)?)?.map)
    }
}

/// Runs the scripts of one stage, each in its namespace.
pub(super) fn run(world: &World, names: &Names, fixture: &Path, stage: &str) -> Result<()> {
    let mut scripts: Vec<PathBuf> = fs::read_dir(fixture.join(stage))?.flatten().map(|entry| entry.path()).collect();
    scripts.sort();
    ensure!(!scripts.is_empty(), "{} has no scripts", fixture.display());
    for path in scripts {
        let title = path.file_stem().and_then(|stem| stem.to_str()).context("a name")?;
        let netns = match title.split_once('-').context("what it is of")? {
            ("node", name) => world.lab.node(name)?.netns(),
            (_, name) => world.lab.pod(name)?.netns(),
        };
        let script = names.of_placeholders(&fs::read_to_string(&path)?);
        shell(netns, fixture, &script).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Runs a script in a namespace, among the files of the fixture.
fn shell(netns: &Netns, fixture: &Path, script: &str) -> Result<()> {
    // The `ip` of Debian 12 cannot say whose an address is.
    let known =
        |line: &str| if line.starts_with("ip address") { line.replace(" proto 107", "") } else { line.to_owned() };
    let script: Vec<String> = script.lines().map(known).collect();
    let mut command = Command::new("sh");
    command.args(["-ec", &script.join("\n")]).current_dir(fixture);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::task::block_in_place(|| netns.spawn(&mut command)?.wait_with_output().context("wait"))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
