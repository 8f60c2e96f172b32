/* See settings.h. Kafka's dynamic broker configs are laid over leat.conf here, once, so that readers see one value. */

#include "broker/settings.h"

#include <sys/sysinfo.h>

#include "meta/config_keys.h"

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

static int32_t i32(const Conf *conf, const char *name)
{
    int64_t v = config_i64(conf, name);
    return (int32_t)MAX(INT32_MIN, MIN(v, (int64_t)INT32_MAX));
}

void settings_read(const Conf *conf, Settings *ret)
{
    int64_t queued = config_i64(conf, "queued.max.request.bytes");
    *ret = (Settings){
        .heartbeat_interval_ms = config_i64(conf, "broker.heartbeat.interval.ms"),
        .session_timeout_ms = config_i64(conf, "broker.session.timeout.ms"),
        .auto_create_topics = config_bool(conf, "auto.create.topics.enable"),
        .offsets_partitions = i32(conf, "offsets.topic.num.partitions"),
        .offsets_segment_bytes = config_i64(conf, "offsets.topic.segment.bytes"),
        .producer_id_expiration_ms = config_i64(conf, "producer.id.expiration.ms"),
        .producer_check_ms = config_i64(conf, "producer.id.expiration.check.interval.ms"),
        .retention_check_ms = config_i64(conf, "log.retention.check.interval.ms"),
        .cleaner_backoff_ms = config_i64(conf, "log.cleaner.backoff.ms"),
        .cleaner_enable = config_bool(conf, "log.cleaner.enable"),
        .validate_records = config_text(conf, "produce.validation")[0] != 'b',
        .request_max_bytes = config_i64(conf, "socket.request.max.bytes"),
        .queued_max_bytes = queued > 0 ? queued : (int64_t)MIN(ram_bytes() / 8, (uint64_t)1 << 30),
        .connections_max_idle_ms = config_i64(conf, "connections.max.idle.ms"),
        .connections_max = i32(conf, "max.connections"),
        .connections_max_per_ip = i32(conf, "max.connections.per.ip"),
        .fetch_max_bytes = config_i64(conf, "fetch.max.bytes"),
        .listener_admin = config_bool(conf, "listener.admin"),
        .session_memory_max = share_of_ram(config_text(conf, "session.memory.max")),
        .sessions_max = (uint32_t)i32(conf, "max.sessions"),
        .message_max_bytes = i32(conf, "message.max.bytes"),
    };
}
