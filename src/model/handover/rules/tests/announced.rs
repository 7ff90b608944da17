//! Moves for balance are announced, and made when the nodes of all that take part say that they know.

use super::*;

/// Buckets that are announced to a pod.
fn announced(service: &Service, pod: char) -> usize {
    service.map.moves().filter(|(_, next)| next.endpoint == id(pod)).count()
}

/// `a` and `b` own everything, `c` is new.
fn newcomer() -> Service {
    let mut service = Service::new("ab");
    service.nodes_hear();
    service.add('c');
    service
}

#[test]
fn a_move_is_announced_first_and_made_when_the_nodes_know() {
    let mut service = newcomer();
    let waiting = service.decide_once();
    assert_eq!((service.count('c'), announced(&service, 'c')), (0, 5));
    assert_eq!(waiting.unheard, [(id('c'), [node('a'), node('b'), node('c')].into())].into());
    assert!(service.map.members.contains_key(&id('c')), "pods learn its name and address");
    let map = service.map.clone();
    service.decide_once();
    assert_eq!(service.map, map, "nobody has said anything new");
    service.nodes_hear();
    let waiting = service.decide_once();
    assert_eq!((service.count('c'), announced(&service, 'c'), waiting.unheard.len()), (5, 0, 0));
}

#[test]
fn the_pods_of_a_silent_node_keep_their_buckets_and_the_others_give_theirs() {
    let mut service = newcomer();
    service.deaf = "b";
    let waiting = service.decide();
    assert_eq!(waiting.unheard, [(id('c'), [node('b')].into())].into());
    assert_eq!((service.count('b'), service.count('c') + service.count('a')), (8, 8));
    assert!(service.count('c') >= 2 && announced(&service, 'c') > 0);
    service.forget('b');
    let map = service.map.clone();
    service.decide();
    assert_eq!(service.map, map, "a report that is deleted says nothing");
    service.report('b', |_| {});
    service.deaf = "";
    service.nodes_hear();
    service.decide();
    assert_eq!(service.count('c'), 5);
}

#[test]
fn an_owner_that_goes_takes_its_announcements_along_and_no_others() {
    let mut service = newcomer();
    service.decide_once();
    let of = |service: &Service, pod| {
        let next = service.map.holdings.iter().filter(|holding| holding.owner == Some(id(pod)));
        next.filter_map(|holding| holding.next.clone()).collect::<Vec<_>>()
    };
    let of_b = of(&service, 'b');
    service.state('a', EndpointState::NotReady);
    service.decide_once();
    assert_eq!(service.count('a'), 0, "it is replaced at once");
    assert_eq!(of(&service, 'b'), of_b);
}

#[test]
fn a_node_that_serves_a_former_owner_is_waited_for_unless_that_is_dead() {
    let mut service = Service::new("ab");
    service.state('a', EndpointState::Terminating { serving: true });
    service.decide();
    service.deaf = "a";
    service.add('c');
    service.decide();
    assert!(
        service.former('a') > 0
            && service
                .map
                .holdings
                .iter()
                .all(|h| { h.owner != Some(id('c')) || h.former.iter().all(|former| former.endpoint != id('a')) })
    );
    service.state('a', EndpointState::NotReady);
    service.decide();
    assert_eq!(service.count('c'), 8);
}

#[test]
fn whom_the_node_of_an_owner_lets_in_stands_in_first() {
    let mut service = newcomer();
    service.deaf = "b";
    service.decide();
    let known = service.map.clone();
    service.state('b', EndpointState::Terminating { serving: true });
    service.decide_once();
    let taken = known.iter().zip(&service.map.holdings).filter(|((_, before), _)| before.owner == Some(id('b')));
    assert!(taken.map(|(_, now)| now.owner.clone()).all(|owner| owner == Some(id('a'))), "c is new to the node of b");
}

#[test]
fn an_earlier_version_that_says_nothing_about_maps_is_taken_to_know() {
    let mut service = newcomer();
    for pod in ['a', 'b', 'c'] {
        service.reports.entry(pod).and_modify(|report| report.knows = None);
        service.hear(pod);
    }
    service.decide_once();
    service.decide_once();
    assert_eq!(service.count('c'), 5);
}
