//! What one change costs at full size. Run by hand: `cargo test --release --lib state::tests::scale -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use super::*;

const VIPS: u32 = 5_000;
const PLAIN: u32 = 10_000;
const ENDPOINTS: u32 = 10;

fn address(base: [u8; 4], number: u32) -> String {
    std::net::Ipv4Addr::from(u32::from_be_bytes(base) + number).to_string()
}

fn slice(service: u32, ready: bool) -> EndpointSlice {
    let endpoints = (0..ENDPOINTS).map(|number| {
        let pod = service * ENDPOINTS + number;
        let endpoint = mk_endpoint(&format!("pod-{pod}"), &address([10, 0, 0, 0], pod));
        with_conditions(endpoint, ready || number > 0, true, false)
    });
    mk_slice(&format!("echo-{service}-1"), &format!("echo-{service}"), endpoints.collect())
}

fn plain(number: u32, cluster_ip: u32) -> Service {
    let mut service = mk_service(&format!("plain-{number}"), "");
    service.metadata.annotations = None;
    with_spec(service, |spec| spec.cluster_ips = Some(vec![address([172, 16, 0, 0], cluster_ip)]))
}

/// 5,000 VIPs with ten endpoints each, and twice as many other Services.
fn world() -> Index {
    let mut index = World::new().0;
    for number in 0..VIPS {
        let service = mk_service(&format!("echo-{number}"), &address([192, 168, 0, 0], number));
        index.apply(Change::Service(Watched::Apply(Box::new(service))));
        index.apply(Change::EndpointSlice(Watched::Apply(Box::new(slice(number, true)))));
    }
    for number in 0..PLAIN {
        index.apply(Change::Service(Watched::Apply(Box::new(plain(number, number)))));
    }
    index
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
#[ignore = "a measurement, for a release build"]
fn the_cost_of_one_change_at_full_size() {
    let mut index = world();
    let begin = Instant::now();
    let mut last = index.resolve(&settings()).unwrap();
    println!("{} VIPs at once: {:?}", last.cluster.vips.len(), begin.elapsed());
    let mut measure = |what: &str, change: &dyn Fn(u32) -> Change| {
        let (mut applied, mut resolved) = (Vec::new(), Vec::new());
        for round in 0..41 {
            let begin = Instant::now();
            index.apply(change(round));
            applied.push(begin.elapsed());
            let begin = Instant::now();
            let now = index.resolve(&settings()).unwrap();
            resolved.push(begin.elapsed());
            last = now;
        }
        println!("{what}: apply {:?}, resolve {:?} (median)", median(applied), median(resolved));
    };
    measure("one endpoint", &|round| Change::EndpointSlice(Watched::Apply(Box::new(slice(7, round % 2 == 1)))));
    measure("another Service", &|round| Change::Service(Watched::Apply(Box::new(plain(3, PLAIN + round)))));
}
