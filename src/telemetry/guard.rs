//! Tasks whose faults end them alone, and are seen.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use super::Metrics;

/// How long a task rests that begins again.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs a task to its end, and says whether it came there. A panic, which is our bug, is counted,
/// gets a line in the log, and goes no further. What it has changed by halves is its owner's to know.
pub async fn guarded(metrics: &Metrics, what: &str, task: impl Future<Output = ()>) -> bool {
    let ended = AssertUnwindSafe(task).catch_unwind().await.is_ok();
    if !ended {
        metrics.panicked();
        tracing::error!("the task for {what} panicked; the others go on");
    }
    ended
}

/// Runs a task that the gateway cannot do without: after a panic it begins again.
pub async fn restarted<F: Future<Output = ()>>(
    metrics: Arc<Metrics>,
    what: &'static str,
    task: impl Fn() -> F,
) {
    while !guarded(&metrics, what, task()).await {
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_fault_is_counted_and_what_is_needed_begins_again() {
        let metrics = Arc::new(Metrics::default());
        assert!(guarded(&metrics, "nothing", async {}).await);
        assert!(!guarded(&metrics, "a fault", async { panic!("on purpose") }).await);
        let runs = AtomicUsize::new(0);
        restarted(metrics.clone(), "a fault once", async || {
            assert!(runs.fetch_add(1, Ordering::SeqCst) > 0, "a fault on purpose");
        })
        .await;
        assert_eq!(runs.into_inner(), 2);
        assert!(metrics.encode().unwrap().contains("handover_panics_total 2"));
    }
}
