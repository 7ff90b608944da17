//! What is measured at rest: deciding, programming, starting again, adding and removing much at once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::PATIENCE;
use super::cluster::Fleet;
use super::process::{cpu, peak_mib, quiet, share};
use super::report::Figures;
use super::seed::seed;
use super::site::{BUCKETS, NODE, Site, Used};

/// How long the processes are watched at rest.
const REST: Duration = Duration::from_secs(5);
/// What the agent logs when everything is as it should be for the first time.
const FIRST_PASS: &str = "first pass complete";

/// From the controller's start until every map is stored. What it has not stored in time is stored for it, so that the rest can be
/// measured, and another one takes over.
pub async fn decided(site: &mut Site, figures: &mut Figures) -> Result<()> {
    let began = site.start_controller()?;
    let stored = site.until_written("create", site.services.len(), PATIENCE).await;
    figures.time("decided", stored.map(|at| at - began));
    let pid = site.controller()?;
    if stored.is_some() {
        quiet(&[pid], PATIENCE).await?;
    }
    figures.time("decided: controller CPU", Some(cpu(pid)?));
    figures.add("decided: controller peak RSS", Some(peak_mib(pid)?), "MiB");
    if stored.is_none() {
        site.end_controller().await?;
        figures.count("decided: maps not stored", seed(site)?);
        site.start_controller()?;
    }
    Ok(())
}

/// From the complete lists until every route is in the kernel; then what agent and controller use at rest.
pub async fn programmed(site: &mut Site, figures: &mut Figures) -> Result<()> {
    let listed = site.start_agent().await?;
    let before = site.used()?;
    let routed = until_routed(site).await;
    figures.time("programmed", routed.map(|at| at.saturating_duration_since(listed)));
    let line = tokio::time::timeout(PATIENCE, site.world.agent(NODE)?.line(FIRST_PASS)).await;
    figures.time("programmed, by its log", line.ok().map(|_| listed.elapsed()));
    spent(figures, "programmed", before, site.used()?);
    settle(site).await?;
    figures.time("programmed: agent CPU in all", Some(cpu(site.agent()?)?));
    figures.add("programmed: agent peak RSS", Some(peak_mib(site.agent()?)?), "MiB");
    let before = site.used()?;
    tokio::time::sleep(REST).await;
    spent(figures, "5 s of rest", before, site.used()?);
    Ok(())
}

/// When the last of the routes was written that the Services have.
async fn until_routed(site: &Site) -> Option<Instant> {
    let wanted = site.services.len() * BUCKETS;
    site.routes.until(PATIENCE, |noticed| noticed.last.filter(|_| noticed.routes.len() >= wanted)).await
}

/// The agent ends and starts again: from the complete lists until it says that everything is in place.
pub async fn restarted(site: &mut Site, figures: &mut Figures) -> Result<()> {
    site.world.stop_agent(NODE).await?;
    let noticed = site.routes.look().writes;
    let listed = site.start_agent().await?;
    let line = tokio::time::timeout(PATIENCE, site.world.agent(NODE)?.line(FIRST_PASS)).await;
    figures.time("restart", line.is_ok().then(|| listed.elapsed()));
    if let Ok(line) = line {
        let line = line?;
        let (_, writes) = line.rsplit_once("writes=").context("the line has no writes=")?;
        figures.count("restart: writes", writes.trim().parse::<u32>()?);
    }
    settle(site).await?;
    figures.time("restart: agent CPU in all", Some(cpu(site.agent()?)?));
    figures.count("restart: notices", site.routes.look().writes - noticed);
    Ok(())
}

/// Many new Services at once, whose pods are set up: until their maps are stored, and their routes in the kernel.
pub async fn added(site: &mut Site, figures: &mut Figures, fleet: Fleet, count: u32) -> Result<()> {
    site.add_fleet(fleet)?;
    settle(site).await?;
    let (stored, before, began) = (site.written("create"), site.used()?, Instant::now());
    let first = u32::try_from(site.services.len())?;
    (first..first + count).try_for_each(|number| site.add_service(fleet.endpoints(number)))?;
    figures.time("added: Services created", Some(began.elapsed()));
    let maps = site.until_written("create", stored + usize::try_from(count)?, PATIENCE).await;
    figures.time("added: maps stored", maps.map(|at| at - began));
    figures.time("added: programmed", until_routed(site).await.map(|at| at.saturating_duration_since(began)));
    let rest = settle(site).await?;
    figures.time("added: quiet", rest.map(|at| at - began));
    spent(figures, "added", before, site.used()?);
    figures.add("at the end: agent peak RSS", Some(peak_mib(site.agent()?)?), "MiB");
    figures.add("at the end: controller peak RSS", Some(peak_mib(site.controller()?)?), "MiB");
    Ok(())
}

/// All Services go: until no route is left, and no map.
pub async fn removed(site: &mut Site, figures: &mut Figures) -> Result<()> {
    let (deleted, before, began) = (site.written("delete"), site.used()?, Instant::now());
    site.remove_services()?;
    let gone = site.routes.until(PATIENCE, |noticed| noticed.last.filter(|_| noticed.routes.is_empty())).await;
    figures.time("removed", gone.map(|at| at.saturating_duration_since(began)));
    let maps = site.until_written("delete", deleted + site.services.len(), PATIENCE).await;
    figures.time("removed: maps", maps.map(|at| at - began));
    spent(figures, "removed", before, site.used()?);
    figures.count("notices lost", u8::from(site.routes.look().lost));
    Ok(())
}

/// Waits until nobody does anything.
pub async fn settle(site: &mut Site) -> Result<Option<Instant>> {
    quiet(&[site.agent()?, site.controller()?], PATIENCE).await
}

/// What agent and controller used, and which shares of a CPU this process and everybody else on the machine had.
pub fn spent(figures: &mut Figures, what: &str, from: Used, to: Used) {
    let [agent, controller, double] = [to.agent - from.agent, to.controller - from.controller, to.double - from.double];
    figures.time(format!("{what}: agent CPU"), Some(agent));
    figures.time(format!("{what}: controller CPU"), Some(controller));
    let others = (to.all - from.all).saturating_sub(agent + controller + double);
    for (who, used) in [("double", double), ("others", others)] {
        figures.add(format!("{what}: share of {who}"), Some(share(used, to.at - from.at)), "%");
    }
}
