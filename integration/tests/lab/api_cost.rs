//! What changes cost the API server, by counts: in proportion to the nodes, and nothing at rest.

use anyhow::{Result, ensure};
use integration::apiserver::{Asked, Record};
use integration::bench::api::{REAL_PODS, Site};

const NODES: u8 = 4;
const CONTROLLERS: u64 = 2;
/// They come every two seconds.
const RENEWALS: usize = 5;

/// Where nodes heard of each other's reports, a change would cost the square of their number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_hear_of_each_map_once_and_of_no_report_and_write_nothing_at_rest() -> Result<()> {
    let mut site = Site::build(NODES, REAL_PODS).await?;
    site.replace_pod().await?;
    site.scale_up(REAL_PODS).await?;

    let volumes = site.volumes();
    let of = |agents: bool| move |asked: &Asked| asked.resource == "configmaps" && asked.node.is_empty() != agents;
    let written = |agents: bool| volumes.sum(|asked| of(agents)(asked) && asked.is_write()).requests;
    let (reports, maps) = (written(true), written(false));
    let heard = [true, false].map(|agents| volumes.sum(of(agents)).events);
    println!("{reports} reports and {maps} maps; agents heard {}, controllers {}", heard[0], heard[1]);
    ensure!(maps > 0 && heard[0] > 0, "no map was stored, or nobody heard of it");
    ensure!(heard[0] <= u64::from(NODES) * maps, "agents heard of {} changes, and {maps} maps were stored", heard[0]);
    ensure!(heard[1] <= CONTROLLERS * (maps + reports), "controllers heard of {} changes", heard[1]);

    let journal = site.world.api.journal();
    journal.clear();
    let is_renewal = |record: &&Record| record.info.is("update", "leases");
    journal.wait_for(|records| records.iter().filter(is_renewal).count() >= RENEWALS).await;
    let writes = journal.writes();
    let others: Vec<&Record> = writes.iter().filter(|record| record.info.resource != "leases").collect();
    ensure!(others.is_empty(), "{others:?}");
    Ok(())
}
