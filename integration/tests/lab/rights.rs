//! What agents may write, where the API server does not know their nodes.

use anyhow::{Result, ensure};
use integration::world::WorldSpec;
use integration::world::echo::{VIP, echo_world_in};
use tunnel_router::model::Mode;

const REASON: &str = "NotBoundToNode";

#[tokio::test(flavor = "multi_thread")]
async fn agents_whose_tokens_name_no_node_serve_and_tell_it_on_their_nodes() -> Result<()> {
    let world = echo_world_in(WorldSpec { node_claims: false, ..WorldSpec::new(Mode::Vxlan) }, &[VIP]).await?;
    world.tcp(VIP, 20).await?;
    for node in ["ing1", "ing2", "wrk1", "wrk2"] {
        let note = world.node_event(node, REASON).await?;
        ensure!(note.contains("names no node"), "{node}: {note}");
    }
    Ok(())
}
