//! Whatever stands in place of a map: a controller that begins with it brings the Service back.

use super::world::{Pod, UID, World, id};
use crate::state::assignment::{StoredAssignment, decode};
use crate::testing::fuzz::documents;

/// Three pods, of which the first one has crashed while buckets drained.
fn world() -> World {
    let mut world = World::of("ab");
    world.add('c');
    world.run(5);
    world.set('a', Pod::Crashed);
    world.run(2);
    world
}

/// Within seconds all buckets belong to pods that are ready, by a later decision than the one that was found; but what a later version
/// of the program has written stays as it is.
#[test]
fn fuzz_controller() {
    documents("controller", &[world().text().into_bytes(), World::of("ab").text().into_bytes()], |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let found = decode(Some(&text), UID);
        let mut world = world();
        world.put_map(&text);
        world.restart();
        world.list_reports();
        world.run(12);
        let may_be_replaced =
            found.as_ref().map_or_else(|fault| fault.may_be_replaced(), StoredAssignment::may_be_replaced);
        if !may_be_replaced {
            assert_eq!(world.text(), text);
            return;
        }
        let ready = ['b', 'c'].map(|pod| Some(id(pod)));
        assert!(world.owners().iter().all(|owner| ready.contains(owner)), "{}", world.text());
        if let Ok(found) = found {
            let (before, map) = (found.map, world.map());
            assert!(map.generation > before.generation || map.holdings == before.holdings, "{}", world.text());
        }
    });
}
