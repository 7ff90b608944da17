//! How long things last in the two forms of the run.

use std::time::Duration;

/// Durations of one form.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// What is watched after a fault, while it lasts.
    pub observe: Duration,
    /// How long an outage of the API server or of the controllers lasts.
    pub outage: Duration,
    /// How long endpoints churn or flap.
    pub churn: Duration,
    /// How long no pod of a Service is ready.
    pub unready: Duration,
    /// How long a pod that is told to end serves on in any case, as with a `preStop` sleep.
    pub lives_on: Duration,
    /// Within which time the clients of such a pod leave it.
    pub clients_leave: Duration,
    /// How long such a pod serves at most.
    pub grace: Duration,
    /// `--drain-udp`
    pub drain_udp: &'static str,
}

impl Pace {
    /// Every fault in about four minutes.
    pub const SHORT: Pace = Pace {
        observe: Duration::from_millis(1500),
        outage: Duration::from_secs(6),
        churn: Duration::from_secs(5),
        unready: Duration::from_secs(5),
        lives_on: Duration::from_secs(4),
        clients_leave: Duration::from_secs(2),
        grace: Duration::from_secs(6),
        drain_udp: "2s",
    };

    /// As long as such things take.
    pub const LONG: Pace = Pace {
        observe: Duration::from_secs(10),
        outage: Duration::from_secs(60),
        churn: Duration::from_secs(30),
        unready: Duration::from_secs(20),
        lives_on: Duration::from_secs(5),
        clients_leave: Duration::from_secs(15),
        grace: Duration::from_secs(30),
        drain_udp: "30s",
    };

    /// The same, but pods that end take this many times as long.
    pub fn with_slow_ends(self, times: u32) -> Pace {
        let Pace { lives_on, clients_leave, grace, .. } = self;
        Pace { lives_on: lives_on * times, clients_leave: clients_leave * times, grace: grace * times, ..self }
    }
}
