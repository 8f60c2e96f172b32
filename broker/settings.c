/* See settings.h. Kafka's dynamic broker configs are laid over leat.conf here, once, so that readers see one value. */

#include "broker/settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

static uint64_t ram_bytes(void)
{
    struct sysinfo si;
    return sysinfo(&si) == 0 ? (uint64_t)si.totalram * si.mem_unit : (uint64_t)1 << 30;
}

static uint64_t share_of_ram(const char *text)
{
    int64_t bytes = 0;
    size_t n = 0;
    while (text[n] >= '0' && text[n] <= '9')
        n++;
    if (text[n] == '%') {
        int64_t percent = 0;
        for (size_t i = 0; i < n; i++)
            percent = percent < 1000 ? percent * 10 + (text[i] - '0') : percent;
        return ram_bytes() / 100 * (uint64_t)MIN(percent, 100);
    }
    return parse_size(text, &bytes) == 0 && bytes > 0 ? (uint64_t)bytes : ram_bytes() / 4;
}

static const char *text(const ConfigView *view, const char *name)
{
    return config_view_broker(view, config_key(name), NULL);
}

static bool is_on(const ConfigView *view, const char *name)
{
    return strcmp(text(view, name), "true") == 0;
}

static int32_t i32(const ConfigView *view, const char *name)
{
    int64_t v = config_view_i64(view, name);
    return (int32_t)MAX(INT32_MIN, MIN(v, (int64_t)INT32_MAX));
}

/* A double: Kafka's default is its largest. */
static int64_t bytes_per_s(const char *value)
{
    double v = strtod(value, NULL);
    return v < 9e18 ? (int64_t)v : INT64_MAX;
}

void settings_read(const ConfigView *view, Settings *ret)
{
    int64_t queued = config_view_i64(view, "queued.max.request.bytes");
    *ret = (Settings){
        .heartbeat_interval_ms = config_view_i64(view, "broker.heartbeat.interval.ms"),
        .auto_create_topics = is_on(view, "auto.create.topics.enable"),
        .offsets_partitions = i32(view, "offsets.topic.num.partitions"),
        .offsets_segment_bytes = config_view_i64(view, "offsets.topic.segment.bytes"),
        .producer_id_expiration_ms = config_view_i64(view, "producer.id.expiration.ms"),
        .producer_check_ms = config_view_i64(view, "producer.id.expiration.check.interval.ms"),
        .retention_check_ms = config_view_i64(view, "log.retention.check.interval.ms"),
        .checkpoint_ms = config_view_i64(view, "log.flush.offset.checkpoint.interval.ms"),
        .cleaner_backoff_ms = config_view_i64(view, "log.cleaner.backoff.ms"),
        .cleaner_enable = is_on(view, "log.cleaner.enable"),
        .cleaner_map_bytes = config_view_i64(view, "log.cleaner.dedupe.buffer.size"),
        .cleaner_bytes_per_s = bytes_per_s(text(view, "log.cleaner.io.max.bytes.per.second")),
        .validate_records = text(view, "produce.validation")[0] != 'b',
        .request_max_bytes = config_view_i64(view, "socket.request.max.bytes"),
        .queued_max_bytes = queued > 0 ? queued : (int64_t)MIN(ram_bytes() / 8, (uint64_t)1 << 30),
        .connections_max_idle_ms = config_view_i64(view, "connections.max.idle.ms"),
        .connections_max = i32(view, "max.connections"),
        .connections_max_per_ip = i32(view, "max.connections.per.ip"),
        .receive_buffer_bytes = i32(view, "socket.receive.buffer.bytes"),
        .send_buffer_bytes = i32(view, "socket.send.buffer.bytes"),
        .fetch_max_bytes = config_view_i64(view, "fetch.max.bytes"),
        .listener_admin = is_on(view, "listener.admin"),
        .session_memory_max = share_of_ram(text(view, "session.memory.max")),
        .sessions_max = (uint32_t)i32(view, "max.sessions"),
    };
    snprintf(ret->connections_max_of, sizeof(ret->connections_max_of), "%s", text(view, "max.connections.per.ip.overrides"));
}

int32_t settings_connections_max(const Settings *s, const char *ip)
{
    ip += strncmp(ip, "::ffff:", 7) == 0 ? 7 : 0; /* IPv4 on a listener of IPv6 */
    size_t n = strlen(ip);
    for (const char *item = s->connections_max_of; item && *item; item = strchr(item, ',')) {
        item += *item == ',';
        if (strncmp(item, ip, n) == 0 && item[n] == ':' && strcspn(item + n + 1, ":,") == strcspn(item + n + 1, ","))
            return (int32_t)strtol(item + n + 1, NULL, 10);
    }
    return s->connections_max_per_ip;
}
