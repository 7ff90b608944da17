//! API servers that are gone, and API servers that had better be.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::apiserver::ApiError;
use crate::soak::stage::Stage;
use crate::world::echo::SERVICE;

/// How late answers are.
const LATE: Duration = Duration::from_millis(700);
/// Between two ways of ending all watches.
const TURN: Duration = Duration::from_millis(1200);

impl Stage {
    pub(in crate::soak) async fn api_down(&mut self) -> Result<()> {
        self.traffic.fault_now();
        self.world.api.faults().go_down();
        self.observe(self.pace.outage).await?;
        self.world.api.faults().come_up();
        Ok(())
    }

    /// A pod is not ready for a while in the meantime, so that there is something to be told.
    pub(in crate::soak) async fn api_lossy(&mut self) -> Result<()> {
        let faults = self.world.api.faults();
        faults.delay_all(LATE);
        let count = AtomicUsize::new(0);
        let refusal = ApiError::Injected {
            code: 503,
            reason: "ServiceUnavailable".to_owned(),
            message: "the server is currently unable to handle the request".to_owned(),
        };
        faults.fail_all(move |_| count.fetch_add(1, Ordering::Relaxed) % 3 == 2, refusal);
        let pod = self.pods_of(SERVICE).swap_remove(0);
        let until = Instant::now() + self.pace.outage;
        for turn in 0.. {
            if Instant::now() >= until {
                break;
            }
            let faults = self.world.api.faults();
            match turn % 4 {
                0 => faults.expire_watches(),
                1 => faults.cut_watches(),
                2 => faults.drop_watches(),
                _ => faults.end_watches(),
            }
            self.traffic.fault_now();
            self.world.set_ready(&pod, turn % 2 == 1)?;
            self.observe(TURN).await?;
        }
        self.world.set_ready(&pod, true)?;
        self.world.api.faults().heal();
        Ok(())
    }
}
