//! What is measured of changes: one endpoint after the other, and a hundred in each second.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tunnel_router::model::handover::Assignment;

use super::cluster::vip;
use super::phases::{settle, spent};
use super::process::share;
use super::report::{Figures, milliseconds};
use super::routes::Key;
use super::site::Site;

/// For one change to be done; then it is left out.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two changes of a stream.
const TICK: Duration = Duration::from_millis(10);
/// The table of bucket 0, by default.
const TABLE_BASE: u32 = 10_000;

/// What is measured of changes of one kind that are made when everything is at rest.
pub struct Kind {
    /// How the figures are called.
    pub name: &'static str,
    /// At most so many changes.
    pub count: u32,
    /// At most for so long.
    pub limit: Duration,
}

/// Changes of endpoints, each of another Service while there are some. `change` is told which Service it is, and how many changes it has
/// had.
pub async fn one_by_one(
    site: &mut Site,
    figures: &mut Figures,
    Kind { name, count, limit }: Kind,
    mut change: impl FnMut(&mut Site, u32, usize) -> Result<()>,
) -> Result<()> {
    let services = u32::try_from(site.services.len())?;
    settle(site).await?;
    let (began, before) = (Instant::now(), site.used()?);
    let (mut decided, mut written, mut done) = (Vec::new(), Vec::new(), 0);
    while done < count && began.elapsed() < limit {
        let (service, lap) = (done % services, (done / services) as usize);
        let times = timed(site, service, |site| change(site, service, lap)).await?;
        if let Some((to_map, to_kernel)) = times {
            decided.push(to_map);
            written.push(to_kernel);
        }
        done += 1;
        settle(site).await?;
    }
    let used = site.used()?;
    figures.count(format!("{name}: changes"), done);
    figures.count(format!("{name}: followed"), written.len());
    figures.percentiles(&format!("{name}: slice to map"), decided);
    figures.percentiles(&format!("{name}: map to kernel"), written);
    let per_change = |used: Duration| (done > 0).then(|| milliseconds(used) / f64::from(done));
    figures.add(format!("{name}: agent CPU"), per_change(used.agent - before.agent), "ms");
    figures.add(format!("{name}: controller CPU"), per_change(used.controller - before.controller), "ms");
    figures.add(format!("{name}: double CPU"), per_change(used.double - before.double), "ms");
    Ok(())
}

/// A change of one Service: how long until its map is stored, and from there until the kernel has the last route. Nothing if that takes
/// too long.
async fn timed(
    site: &mut Site,
    service: u32,
    change: impl FnOnce(&mut Site) -> Result<()>,
) -> Result<Option<(Duration, Duration)>> {
    let uid = site.uid(service)?;
    let before = site.world.map_of(&uid).context("the Service has no map")?;
    let began = Instant::now();
    change(site)?;
    let stored = || site.world.map_of(&uid);
    let next = site.world.api.store().wait_for(|_| stored().filter(|map| moved(&before, map).next().is_some()));
    let Ok(Some(map)) = tokio::time::timeout(LIMIT, next).await else { return Ok(None) };
    let stored_at = Instant::now();
    let keys: Vec<Key> = moved(&before, &map).map(|bucket| (TABLE_BASE + bucket, vip(service))).collect();
    let last = site.routes.until(LIMIT, |noticed| {
        let written = keys.iter().map(|key| noticed.routes.get(key).filter(|at| **at > began).copied());
        written.collect::<Option<Vec<Instant>>>()?.into_iter().max()
    });
    Ok(last.await.map(|last| (stored_at - began, last.saturating_duration_since(stored_at))))
}

/// The buckets that have another owner.
fn moved(before: &Assignment, after: &Assignment) -> impl Iterator<Item = u32> {
    let pairs = before.iter().zip(&after.holdings);
    pairs.filter(|((_, old), new)| old.owner != new.owner).map(|((bucket, _), _)| bucket.number())
}

/// A hundred changes in each second, whatever becomes of them; then how long it takes until everybody is at rest.
pub async fn in_a_stream(
    site: &mut Site,
    figures: &mut Figures,
    length: Duration,
    change: impl Fn(&Site, u32) -> Result<()>,
) -> Result<()> {
    settle(site).await?;
    let (before, maps, mut tick) = (site.used()?, site.written("update"), 0);
    let mut ticks = tokio::time::interval(TICK);
    while before.at.elapsed() < length {
        ticks.tick().await;
        change(site, tick)?;
        tick += 1;
    }
    let (used, ended) = (site.used()?, Instant::now());
    figures.count("stream: changes", tick);
    figures.count("stream: maps stored", site.written("update") - maps);
    let passed = used.at - before.at;
    figures.add("stream: share of agent", Some(share(used.agent - before.agent, passed)), "%");
    figures.add("stream: share of controller", Some(share(used.controller - before.controller, passed)), "%");
    spent(figures, "stream", before, used);
    let rest = settle(site).await?;
    figures.time("stream: quiet after", rest.map(|at| at.saturating_duration_since(ended)));
    Ok(())
}
