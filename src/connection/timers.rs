//! What a connection does when it is time to.

use std::future::Future;
use std::task::{Context, Poll, ready};

use handover_protocol::time::Time;
use handover_protocol::wire::CloseCode;
use handover_protocol::wire::message::{Close, ServerMessage};

use super::{CLOSE_GRACE, End, Pump, QUALITY_EVERY};
use crate::transport::Transport;

impl<T: Transport> Pump<T> {
    /// Does what it is time for.
    pub(super) fn poll_timers(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let now = self.shared.clock.now();
            if now >= self.next_timeout(now) {
                if let Some(end) = self.handle_timeout(now) {
                    return Poll::Ready(end);
                }
                // Whatever this made the session say goes out in the next poll.
                cx.waker().wake_by_ref();
            }
            let next = self.next_timeout(now);
            if self.timer_at != Some(next) {
                self.timer_at = Some(next);
                self.timer.set(tokio::time::sleep(next.since(now)));
            }
            ready!(self.timer.as_mut().poll(cx));
            self.timer_at = None;
        }
    }

    fn next_timeout(&self, now: Time) -> Time {
        let hello = (!self.is_greeted()).then(|| self.started + self.shared.hello_timeout);
        let stuck = self.stuck_since.map(|since| since + self.shared.blocked_timeout);
        let closing = self.closing_since.map(|since| since + CLOSE_GRACE);
        [
            hello,
            stuck,
            closing,
            self.session.poll_timeout(),
            self.brake.until(),
            self.brake.quiet_until(),
            self.brake.calm_from(now),
        ]
        .into_iter()
        .flatten()
        .fold(self.next_heartbeat.min(self.next_quality), Time::min)
    }

    /// Whether there is a session, and all that belongs to its connection.
    pub(super) fn is_greeted(&self) -> bool {
        self.seat.is_some() && self.transport.is_complete()
    }

    fn handle_timeout(&mut self, now: Time) -> Option<End> {
        if !self.is_greeted() && now >= self.started + self.shared.hello_timeout {
            return Some(End::Close(Close::new(CloseCode::HelloTimeout)));
        }
        if self.stuck_since.is_some_and(|since| now >= since + self.shared.blocked_timeout) {
            return Some(End::Close(Close::new(CloseCode::TooSlow)));
        }
        if let Some(end) = self.poll_closing(now) {
            return Some(end);
        }
        if now >= self.next_heartbeat {
            self.next_heartbeat = now + self.shared.settings.heartbeat;
            self.transport.keep_alive();
            self.session.handle_calendar(now, self.shared.clock.unix_now().as_secs());
        }
        if now >= self.next_quality {
            self.next_quality = now + QUALITY_EVERY;
            self.transport.look_back();
            self.notice_move();
            let path = self.transport.path();
            if let Some(quality) = self.quality.measure(&path) {
                self.session.notify(&ServerMessage::Quality(quality));
            }
        }
        self.brake.handle_timeout(now);
        self.session.handle_timeout(now);
        None
    }
}
