//! Every metric of the gateway, with its meaning.
//!
//! A registry of its own for each gateway, so that several run in one process. What is counted
//! per message is a plain atomic found without a lookup; what is rare goes by its label.
//! Labels come from closed sets only: nothing a peer chooses becomes one.

use std::fmt;
use std::sync::atomic::AtomicU64;

use handover_protocol::room::log::Trimmed;
use handover_protocol::wire::message::ResetReason;
use handover_protocol::wire::{ErrorCode, Lane, LogLane, PerLane};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::clock::UnixTime;
use crate::transport::Kind;

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByTransport {
    transport: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ending {
    transport: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByLane {
    lane: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCode {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug)]
struct TransportMetrics {
    open: Gauge,
    opened: Counter,
    bytes_in: Counter,
    bytes_out: Counter,
}

/// What a gateway counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Sessions alive on this node, connected or not.
    pub sessions: Gauge,
    /// Rooms alive on this node.
    pub rooms: Gauge,
    /// Bytes of all rooms' logs on this node, as the logs count them.
    pub log_bytes: Gauge,
    webtransport: TransportMetrics,
    websocket: TransportMetrics,
    connection_ends: Family<Ending, Counter>,
    connections_refused: Family<ByReason, Counter>,
    accepted: PerLane<Counter>,
    delivered: PerLane<Counter>,
    ephemeral_delivered: Counter,
    ephemeral_overtaken: Counter,
    ephemeral_unread: Counter,
    ephemeral_undeliverable: Counter,
    datagrams_undecodable: Counter,
    trimmed_aged: Counter,
    trimmed_forced: Counter,
    log_reads: Counter,
    broker_up: Gauge,
    settings_differ: Gauge,
    granted: Gauge<f64, AtomicU64>,
    packets_dropped: Counter,
    stepped_back: Counter,
    resets: Family<ByReason, Counter>,
    refusals: Family<ByCode, Counter>,
    migrations: Counter,
    tokens_refused: Family<ByReason, Counter>,
    jwks_fetches: Family<ByOutcome, Counter>,
    panics: Counter,
    certificate_expires: Gauge,
    udp_receive_buffer: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("handover");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version that runs", build);

        let sessions = Gauge::default();
        registry.register("sessions", "Sessions alive, connected or not", sessions.clone());
        let rooms = Gauge::default();
        registry.register("rooms", "Rooms alive on this node", rooms.clone());
        let log_bytes = Gauge::default();
        let held = "What the logs of all rooms hold on this node";
        registry.register_with_unit("log", held, Unit::Bytes, log_bytes.clone());

        let (webtransport, websocket) = transports(&mut registry);
        let connection_ends = Family::default();
        registry.register(
            "connection_ends",
            "Connections that ended, by why",
            connection_ends.clone(),
        );
        let connections_refused = Family::default();
        registry.register(
            "connections_refused",
            "Connections that never came to be, by why",
            connections_refused.clone(),
        );

        let accepted = Family::<ByLane, Counter>::default();
        registry.register("messages_accepted", "Sends put into a log", accepted.clone());
        let delivered = Family::<ByLane, Counter>::default();
        registry.register(
            "messages_delivered",
            "Messages handed to a member's transport",
            delivered.clone(),
        );
        let ephemeral_dropped = Family::<ByReason, Counter>::default();
        registry.register(
            "ephemeral_dropped",
            "Ephemeral messages not delivered, by why",
            ephemeral_dropped.clone(),
        );
        let datagrams_undecodable = Counter::default();
        registry.register(
            "datagrams_undecodable",
            "Datagrams received that are no message",
            datagrams_undecodable.clone(),
        );

        let trimmed = Family::<ByReason, Counter>::default();
        registry.register(
            "log_entries_trimmed",
            "Log entries let go, by age or forced by the bound on bytes",
            trimmed.clone(),
        );
        let log_reads = Counter::default();
        registry.register(
            "log_reads",
            "Times a room was read from the broker's log because news of it may be missing",
            log_reads.clone(),
        );
        let granted = Gauge::<f64, AtomicU64>::default();
        granted.set(1.0);
        registry.register(
            "rates_granted",
            "The part of configured rates that is granted; below 1 there is too much to do",
            granted.clone(),
        );
        let packets_dropped = Counter::default();
        registry.register(
            "packets_dropped",
            "UDP datagrams dropped unread, because there was too much to do and many came to one connection id",
            packets_dropped.clone(),
        );
        let stepped_back = Counter::default();
        registry.register(
            "connections_stepped_back",
            "Connections that are served after others for a while, for all they say or open",
            stepped_back.clone(),
        );
        let broker_up = Gauge::default();
        broker_up.set(1);
        registry.register(
            "broker_up",
            "Whether what keeps rooms and sessions answers (1) or not (0)",
            broker_up.clone(),
        );
        let settings_differ = Gauge::default();
        registry.register(
            "broker_settings_differ",
            "Other gateways on the same store whose settings differ where they must not",
            settings_differ.clone(),
        );
        let resets = Family::default();
        registry.register(
            "resets",
            "Members told to start again from a snapshot, by why",
            resets.clone(),
        );
        let refusals = Family::default();
        registry.register("refusals", "Errors answered, by code", refusals.clone());
        let migrations = Counter::default();
        registry.register(
            "migrations",
            "Connections whose peer's IP address changed",
            migrations.clone(),
        );

        let tokens_refused = Family::default();
        registry.register("tokens_refused", "Tokens not taken, by why", tokens_refused.clone());
        let jwks_fetches = Family::default();
        registry.register("jwks_fetches", "Fetches of the JWKS", jwks_fetches.clone());

        let panics = Counter::default();
        registry.register("panics", "Tasks ended by a fault of ours", panics.clone());

        let certificate_expires = Gauge::default();
        registry.register_with_unit(
            "certificate_expires",
            "When the certificate in use ends, as Unix time",
            Unit::Seconds,
            certificate_expires.clone(),
        );
        let udp_receive_buffer = Gauge::default();
        registry.register_with_unit(
            "udp_receive_buffer",
            "What the system granted the smallest UDP socket",
            Unit::Bytes,
            udp_receive_buffer.clone(),
        );

        let reason = |reason| ByReason { reason };
        Metrics {
            registry,
            sessions,
            rooms,
            log_bytes,
            webtransport,
            websocket,
            connection_ends,
            connections_refused,
            accepted: per_lane(&accepted),
            delivered: per_lane(&delivered),
            ephemeral_delivered: delivered.get_or_create_owned(&ByLane { lane: "ephemeral" }),
            ephemeral_overtaken: ephemeral_dropped.get_or_create_owned(&reason("overtaken")),
            ephemeral_unread: ephemeral_dropped.get_or_create_owned(&reason("unread")),
            ephemeral_undeliverable: ephemeral_dropped
                .get_or_create_owned(&reason("undeliverable")),
            datagrams_undecodable,
            trimmed_aged: trimmed.get_or_create_owned(&reason("aged")),
            trimmed_forced: trimmed.get_or_create_owned(&reason("forced")),
            log_reads,
            broker_up,
            settings_differ,
            granted,
            packets_dropped,
            stepped_back,
            resets,
            refusals,
            migrations,
            tokens_refused,
            jwks_fetches,
            panics,
            certificate_expires,
            udp_receive_buffer,
        }
    }
}

fn transports(registry: &mut Registry) -> (TransportMetrics, TransportMetrics) {
    let open = Family::<ByTransport, Gauge>::default();
    registry.register("connections", "Connections open", open.clone());
    let opened = Family::<ByTransport, Counter>::default();
    registry.register("connections_opened", "Connections that came to be", opened.clone());
    let bytes_in = Family::<ByTransport, Counter>::default();
    registry.register_with_unit(
        "received",
        "Messages received, without framing",
        Unit::Bytes,
        bytes_in.clone(),
    );
    let bytes_out = Family::<ByTransport, Counter>::default();
    registry.register_with_unit(
        "sent",
        "Messages sent, without framing",
        Unit::Bytes,
        bytes_out.clone(),
    );
    let of = |kind: Kind| {
        let label = ByTransport { transport: kind.name() };
        TransportMetrics {
            open: open.get_or_create_owned(&label),
            opened: opened.get_or_create_owned(&label),
            bytes_in: bytes_in.get_or_create_owned(&label),
            bytes_out: bytes_out.get_or_create_owned(&label),
        }
    };
    (of(Kind::WebTransport), of(Kind::WebSocket))
}

fn per_lane(family: &Family<ByLane, Counter>) -> PerLane<Counter> {
    PerLane {
        signal: family.get_or_create_owned(&ByLane { lane: "signal" }),
        bulk: family.get_or_create_owned(&ByLane { lane: "bulk" }),
    }
}

impl Metrics {
    fn transport(&self, kind: Kind) -> &TransportMetrics {
        match kind {
            Kind::WebTransport => &self.webtransport,
            Kind::WebSocket => &self.websocket,
        }
    }

    /// A connection came to be.
    pub fn connection_opened(&self, kind: Kind) {
        let transport = self.transport(kind);
        transport.open.inc();
        transport.opened.inc();
    }

    /// A connection that was opened ended; `reason` is a close code's name or one of a few
    /// names for how a transport ends.
    pub fn connection_ended(&self, kind: Kind, reason: &'static str) {
        self.transport(kind).open.dec();
        self.connection_ends.get_or_create(&Ending { transport: kind.name(), reason }).inc();
    }

    /// Somebody was turned away before there was a connection.
    pub fn connection_refused(&self, reason: &'static str) {
        self.connections_refused.get_or_create(&ByReason { reason }).inc();
    }

    /// A task panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// Bytes of messages came in.
    pub fn received(&self, kind: Kind, bytes: u64) {
        self.transport(kind).bytes_in.inc_by(bytes);
    }

    /// Bytes of messages went out.
    pub fn sent(&self, kind: Kind, bytes: u64) {
        self.transport(kind).bytes_out.inc_by(bytes);
    }

    /// A send was put into a log.
    pub fn accepted(&self, lane: LogLane) {
        self.accepted[lane].inc();
    }

    /// Messages of a lane were handed to a member's transport.
    pub fn delivered(&self, lane: Lane, messages: u64) {
        let counter = match lane {
            Lane::Signal => &self.delivered.signal,
            Lane::Bulk => &self.delivered.bulk,
            Lane::Ephemeral => &self.ephemeral_delivered,
        };
        counter.inc_by(messages);
    }

    /// A newer ephemeral message pushed an older one out.
    pub fn ephemeral_overtaken(&self) {
        self.ephemeral_overtaken.inc();
    }

    /// An ephemeral message came while nothing was read from its connection.
    pub fn ephemeral_unread(&self) {
        self.ephemeral_unread.inc();
    }

    /// The part of all rates that is granted, from 0 to 1.
    pub fn granted(&self, share: f64) {
        self.granted.set(share);
    }

    /// UDP datagrams were dropped unread.
    pub fn packets_dropped(&self, datagrams: u64) {
        self.packets_dropped.inc_by(datagrams);
    }

    /// A connection is served after others for a while.
    pub fn stepped_back(&self) {
        self.stepped_back.inc();
    }

    /// Ephemeral messages did not fit into a datagram, or the peer takes none.
    pub fn ephemeral_undeliverable(&self, messages: u64) {
        self.ephemeral_undeliverable.inc_by(messages);
    }

    /// A datagram is no message.
    pub fn datagram_undecodable(&self) {
        self.datagrams_undecodable.inc();
    }

    /// Entries were let go.
    pub fn trimmed(&self, trimmed: &Trimmed) {
        self.trimmed_aged.inc_by(trimmed.aged as u64);
        self.trimmed_forced.inc_by(trimmed.forced as u64);
    }

    /// A room was read from the broker's log.
    pub fn log_read(&self) {
        self.log_reads.inc();
    }

    /// How many other gateways have other settings.
    pub fn settings_differ(&self, gateways: usize) {
        self.settings_differ.set(i64::try_from(gateways).unwrap_or(i64::MAX));
    }

    /// Whether the broker answers.
    pub fn broker(&self, is_up: bool) {
        self.broker_up.set(i64::from(is_up));
    }

    /// A member was told to start again from a snapshot.
    pub fn reset(&self, reason: ResetReason) {
        let reason = match reason {
            ResetReason::Trimmed => "trimmed",
            ResetReason::Unlisted => "unlisted",
            ResetReason::Ahead => "ahead",
            ResetReason::Epoch => "epoch",
        };
        self.resets.get_or_create(&ByReason { reason }).inc();
    }

    /// A request or send was refused.
    pub fn refused(&self, code: ErrorCode) {
        self.refusals.get_or_create(&ByCode { code: code.name() }).inc();
    }

    /// A connection's peer is at another IP address.
    pub fn migrated(&self) {
        self.migrations.inc();
    }

    /// A token was not taken.
    pub fn token_refused(&self, reason: &'static str) {
        self.tokens_refused.get_or_create(&ByReason { reason }).inc();
    }

    /// The JWKS was fetched, or could not be.
    pub fn jwks_fetched(&self, good: bool) {
        let outcome = if good { "ok" } else { "failed" };
        self.jwks_fetches.get_or_create(&ByOutcome { outcome }).inc();
    }

    /// A certificate is in use.
    pub fn certificate(&self, expires: UnixTime) {
        self.certificate_expires.set(i64::try_from(expires.as_secs()).unwrap_or(i64::MAX));
    }

    /// What the system granted the smallest UDP socket for receiving.
    pub fn udp_receive_buffer(&self, bytes: usize) {
        self.udp_receive_buffer.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// All of it as text, of the media type [`CONTENT_TYPE`].
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_what_is_told() {
        let metrics = Metrics::default();
        metrics.connection_opened(Kind::WebTransport);
        metrics.connection_opened(Kind::WebSocket);
        metrics.connection_ended(Kind::WebSocket, "bye");
        metrics.connection_refused("origin");
        metrics.received(Kind::WebTransport, 300);
        metrics.sent(Kind::WebSocket, 400);
        metrics.sessions.inc();
        metrics.rooms.inc();
        metrics.log_bytes.set(700);
        metrics.accepted(LogLane::Bulk);
        metrics.delivered(Lane::Signal, 3);
        metrics.delivered(Lane::Ephemeral, 5);
        metrics.ephemeral_overtaken();
        metrics.ephemeral_undeliverable(2);
        metrics.datagram_undecodable();
        metrics.trimmed(&Trimmed { aged: 7, forced: 1 });
        metrics.reset(ResetReason::Ahead);
        metrics.refused(ErrorCode::SeqGap);
        metrics.migrated();
        metrics.token_refused("expired");
        metrics.jwks_fetched(true);
        metrics.certificate(UnixTime::from_secs(1_800_000_000));
        metrics.udp_receive_buffer(4096);

        let text = metrics.encode().unwrap();
        let build = format!("handover_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        for line in [
            build.as_str(),
            "handover_connections{transport=\"webtransport\"} 1",
            "handover_connections{transport=\"websocket\"} 0",
            "handover_connections_opened_total{transport=\"websocket\"} 1",
            "handover_connection_ends_total{transport=\"websocket\",reason=\"bye\"} 1",
            "handover_connections_refused_total{reason=\"origin\"} 1",
            "handover_received_bytes_total{transport=\"webtransport\"} 300",
            "handover_sent_bytes_total{transport=\"websocket\"} 400",
            "handover_sessions 1",
            "handover_rooms 1",
            "handover_log_bytes 700",
            "handover_messages_accepted_total{lane=\"signal\"} 0",
            "handover_messages_accepted_total{lane=\"bulk\"} 1",
            "handover_messages_delivered_total{lane=\"signal\"} 3",
            "handover_messages_delivered_total{lane=\"ephemeral\"} 5",
            "handover_ephemeral_dropped_total{reason=\"overtaken\"} 1",
            "handover_ephemeral_dropped_total{reason=\"undeliverable\"} 2",
            "handover_datagrams_undecodable_total 1",
            "handover_log_entries_trimmed_total{reason=\"aged\"} 7",
            "handover_log_entries_trimmed_total{reason=\"forced\"} 1",
            "handover_resets_total{reason=\"ahead\"} 1",
            "handover_refusals_total{code=\"seq_gap\"} 1",
            "handover_migrations_total 1",
            "handover_tokens_refused_total{reason=\"expired\"} 1",
            "handover_jwks_fetches_total{outcome=\"ok\"} 1",
            "handover_certificate_expires_seconds 1800000000",
            "handover_udp_receive_buffer_bytes 4096",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn two_gateways_in_one_process_count_apart() {
        let (one, other) = (Metrics::default(), Metrics::default());
        one.sessions.inc();
        assert!(other.encode().unwrap().contains("handover_sessions 0"));
    }

    #[test]
    fn the_operations_page_has_every_metric() {
        let page = include_str!("../../docs/operations.md");
        for line in Metrics::default().encode().unwrap().lines() {
            let Some(rest) = line.strip_prefix("# HELP ") else { continue };
            let name = rest.split(' ').next().unwrap();
            assert!(page.contains(&format!("`{name}")), "{name} is not in docs/operations.md");
        }
    }
}
