//! Replaying: the scripts make the kernel objects, and the ConfigMaps are put into the API, as that version had left them.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressProtocol, CacheInfo};
use serde_json::Value;
use tunnel_router::model::Mode;
use tunnel_router::model::handover::Assignment;
use tunnel_router::state::assignment::{MAP_KEY, decode};

use super::{Files, Names, PODS, program};
use crate::lab::stack::Stack;
use crate::netns::Netns;
use crate::world::World;
use crate::world::echo::{SERVICE, VIP, VIP6};

/// What ends the command that adds an address, and what the `ip` of Debian 12 does not know: who has made it.
const OURS: &str = " proto 107";
/// The number in it.
const PROTOCOL: u8 = 107;

/// The recorded state of a version, in the names of one world.
pub struct Fixture {
    files: Files,
    names: Names,
}

impl Fixture {
    /// The fixture of a version in one mode, for a world of [`super::world`].
    ///
    /// # Errors
    /// The world is another one.
    pub async fn of(version: &str, mode: Mode, world: &World) -> Result<Fixture> {
        Ok(Fixture { files: Files::of(version, mode), names: Names::of(world).await? })
    }

    /// Makes the kernel objects of nodes and pods that serve, and tells the pods' programs who is who.
    ///
    /// # Errors
    /// A script fails.
    pub async fn serve(&self, world: &World) -> Result<()> {
        run(world, &self.names, &self.files, "serving").await?;
        let map = self.map(world)?;
        PODS.iter().try_for_each(|(pod, _)| program::tell(world.lab.pod(pod)?.netns(), &[VIP, VIP6], &map))
    }

    /// Stores the ConfigMaps and makes the first pod drain: it is not ready any more.
    ///
    /// # Errors
    /// A script fails.
    pub async fn drain(&self, world: &World) -> Result<()> {
        world.set_ready(PODS[0].0, false)?;
        for object in self.config_maps()? {
            world.api.store().create(object)?;
        }
        run(world, &self.names, &self.files, "draining").await
    }

    fn config_maps(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.files.config_maps())?;
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
pub(super) async fn run(world: &World, names: &Names, files: &Files, stage: &str) -> Result<()> {
    let directory = files.scripts(stage);
    let listed = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let mut scripts: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).collect();
    scripts.sort();
    ensure!(!scripts.is_empty(), "{} has no scripts", directory.display());
    for path in scripts {
        let title = path.file_stem().and_then(|stem| stem.to_str()).context("a name")?;
        let stack = match title.split_once('-').context("what it is of")? {
            ("node", name) => world.lab.node(name)?.stack(),
            (_, name) => world.lab.pod(name)?.stack(),
        };
        let script = names.of_placeholders(&fs::read_to_string(&path)?);
        shell(stack.netns(), &files.version, &script).with_context(|| path.display().to_string())?;
        for line in script.lines().filter(|line| line.starts_with("ip address add ") && line.ends_with(OURS)) {
            own(stack, line).await?;
        }
    }
    Ok(())
}

/// Says that the address of this command is ours.
async fn own(stack: &Stack, command: &str) -> Result<()> {
    let words: Vec<&str> = command.split(' ').collect();
    let [_, _, _, address, "dev", device, ..] = words[..] else { bail!("not understood: {command}") };
    let (address, prefix) = address.split_once('/').context("a prefix")?;
    let (address, prefix): (IpAddr, u8) = (address.parse()?, prefix.parse()?);
    let mut request = stack.netlink().address().add(stack.index(device).await?, address, prefix).replace();
    let attributes = &mut request.message_mut().attributes;
    attributes.push(AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL)));
    if address.is_ipv6() {
        // Replacing would give it back what `nodad preferred_lft 0` has taken.
        let mut lifetimes = CacheInfo::default();
        (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, u32::MAX);
        attributes.extend([AddressAttribute::CacheInfo(lifetimes), AddressAttribute::Flags(AddressFlags::Nodad)]);
    }
    request.execute().await.with_context(|| command.to_owned())
}

/// Runs a script in a namespace, among the files of the version.
fn shell(netns: &Netns, version: &Path, script: &str) -> Result<()> {
    let known = |line: &str| match line.strip_prefix("ip address add ") {
        Some(_) => line.trim_end_matches(OURS).to_owned(),
        None => line.to_owned(),
    };
    let script: Vec<String> = script.lines().map(known).collect();
    let mut command = Command::new("sh");
    command.args(["-ec", &script.join("\n")]).current_dir(version);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::task::block_in_place(|| netns.spawn(&mut command)?.wait_with_output().context("wait"))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
