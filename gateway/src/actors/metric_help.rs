//! The HELP texts of the metrics. [Metrics](../../../docs/reference/metrics.md) says more, and lists the values of labels.

use metrics::{describe_counter, describe_gauge};

/// Gives each metric its HELP text. Call it once, after the recorder is installed.
pub fn describe_metrics() {
    describe_readings();
    describe_connections();
    describe_shards();
    describe_links();
    describe_disk_and_clock();
    describe_uplink();
}

fn describe_readings() {
    describe_counter!(
        "selvedge_readings_total",
        "Readings by outcome, at the gateway that answered the device"
    );
    describe_counter!("selvedge_publishes_acked_total", "Publishes acknowledged by this gateway");
    describe_counter!(
        "selvedge_publishes_refused_total",
        "Publishes answered with a failure by this gateway"
    );
    describe_counter!(
        "selvedge_publishes_unmapped_total",
        "Publishes whose topic maps to no stream and has no subscriber"
    );
    describe_gauge!("selvedge_publishes_held_bytes", "Bytes of publishes that this gateway holds unanswered");
    describe_counter!("selvedge_fields_skipped_total", "Fields that are no readings, by reason");
    describe_counter!("selvedge_qos0_dropped_total", "Publishes of QoS 0 dropped under pressure");
    describe_counter!("selvedge_set_aside_total", "Readings set aside, by the shards' leaders and by reason");
    describe_counter!("selvedge_applied_total", "What the shards' leaders applied, by kind");
    describe_counter!("selvedge_sparkplug_missing_total", "Sparkplug messages missing by `seq`");
    describe_counter!("selvedge_sparkplug_rebirths_total", "Requests for Sparkplug births");
    describe_counter!(
        "selvedge_sparkplug_late_deaths_total",
        "Deaths of earlier Sparkplug sessions that came after a later birth"
    );
}

fn describe_connections() {
    describe_gauge!("selvedge_connections", "MQTT connections now");
    describe_counter!(
        "selvedge_connections_ended_total",
        "MQTT connections that ended or were refused, by reason"
    );
    describe_counter!("selvedge_deliveries_dropped_total", "Messages to subscribers that found no room");
    describe_counter!("selvedge_http_denied_total", "HTTP requests without a sufficient token");
}

fn describe_shards() {
    describe_gauge!("selvedge_shards", "Shards that this gateway holds");
    describe_gauge!("selvedge_shards_leading", "Shards that this gateway leads");
    describe_gauge!("selvedge_shards_damaged", "Shards that this gateway holds with a damaged log");
    describe_counter!("selvedge_leaderships_total", "How often this gateway became the leader of a shard");
    describe_counter!(
        "selvedge_shard_behind_total",
        "Frames of peers that a shard's thread was too far behind to accept"
    );
    describe_counter!(
        "selvedge_foreign_configuration_total",
        "Messages in which a peer names the configuration that a shard is in"
    );
    describe_gauge!("selvedge_outbox_batches", "Unconfirmed batches of the shards that this gateway leads");
    describe_gauge!(
        "selvedge_outbox_bytes",
        "Bytes of unconfirmed batches of the shards that this gateway leads"
    );
    describe_gauge!("selvedge_devices", "Devices in the shards that this gateway leads");
    describe_gauge!("selvedge_streams", "Streams in the shards that this gateway leads");
    describe_gauge!("selvedge_names_bytes", "Bytes of names in the shards that this gateway leads");
    describe_gauge!(
        "selvedge_tombstones",
        "Retired streams whose resends the shards that this gateway leads recognise"
    );
    describe_gauge!("selvedge_open_parts", "Open parts of windows in the shards that this gateway leads");
    describe_gauge!("selvedge_sessions", "MQTT sessions in the shards that this gateway leads");
    describe_gauge!(
        "selvedge_subscriptions",
        "Subscriptions of MQTT sessions in the shards that this gateway leads"
    );
    describe_gauge!(
        "selvedge_remembered_clients",
        "Clients whose packet ids the shards that this gateway leads remember"
    );
    describe_gauge!("selvedge_bound_used", "The fullest shard's use of a bound, by rule");
    describe_gauge!("selvedge_bound", "The bound of a shard, by rule");
}

fn describe_links() {
    describe_gauge!("selvedge_gateways_up", "Gateways that this one considers alive");
    describe_gauge!("selvedge_gateways_by_detour", "Gateways that this one reaches only through another one");
    describe_counter!(
        "selvedge_detours_total",
        "Messages by a detour: sent, passed on for others, taken, refused"
    );
    describe_counter!(
        "selvedge_link_connections_total",
        "Connections to other gateways, by the end that dialled"
    );
    describe_counter!("selvedge_link_sent_total", "Messages sent to other gateways, by kind");
    describe_counter!(
        "selvedge_link_dropped_total",
        "Messages that a link could not carry, by kind and reason"
    );
    describe_counter!("selvedge_link_strangers_total", "Refused connections at the peer port");
    describe_counter!("selvedge_stalled_ms_total", "Milliseconds during which this process did not run");
}

fn describe_disk_and_clock() {
    describe_gauge!("selvedge_log_room", "1 while the log has room on disk");
    describe_gauge!("selvedge_log_segments", "Segments of the log");
    describe_gauge!("selvedge_log_overlong_bytes", "Bytes of log beyond log.max_segments");
    describe_gauge!(
        "selvedge_log_room_hours",
        "For how many hours an overlong log has room at its rate; +Inf if it is not overlong"
    );
    describe_counter!("selvedge_scrubbed_bytes_total", "Bytes read again by the scrubber");
    describe_counter!("selvedge_scrub_faults_total", "Rotten files that the scrubber found, by kind");
    describe_counter!("selvedge_scrub_mended_total", "Rotten files that are whole again, by kind");
    describe_gauge!("selvedge_clock_sure", "1 while a majority of the gateways agrees on the time");
    describe_gauge!("selvedge_clocks_outside", "Gateways whose clock is off");
}

fn describe_uplink() {
    describe_gauge!("selvedge_uplink_connected", "1 while the uplink is connected to its broker");
    describe_gauge!("selvedge_uplink_trouble", "1 while the uplink is in trouble; /readyz says why");
    describe_counter!(
        "selvedge_uplink_refused_total",
        "Confirmations and questions that were refused, by reason"
    );
    describe_counter!("selvedge_uplink_queue_full_total", "Messages that found the queue to the broker full");
    describe_counter!("selvedge_questions_total", "Questions of nodes, by outcome");
}
