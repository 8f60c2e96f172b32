#pragma once

/* The configuration keys that the broker reads while it works, typed and copied once per (re)load. */

#include "meta/config_keys.h"

typedef struct Settings {
    int64_t heartbeat_interval_ms;
    bool auto_create_topics;
    int32_t offsets_partitions; /* of __consumer_offsets, when it is created */
    int64_t offsets_segment_bytes;
    int64_t producer_id_expiration_ms, producer_check_ms;
    int64_t retention_check_ms, cleaner_backoff_ms, checkpoint_ms;
    bool cleaner_enable;
    int64_t cleaner_map_bytes, cleaner_bytes_per_s;
    bool validate_records; /* produce.validation=records */
    /* network */
    int64_t request_max_bytes, queued_max_bytes;
    int64_t connections_max_idle_ms; /* -1 never */
    int32_t connections_max, connections_max_per_ip;
    char connections_max_of[CONFIG_VALUE_MAX]; /* "address:count,..." instead of connections_max_per_ip */
    int32_t receive_buffer_bytes, send_buffer_bytes; /* -1: the kernel's choice */
    int64_t fetch_max_bytes;
    bool listener_admin;
    /* sessions */
    uint64_t session_memory_max;
    uint32_t sessions_max;
} Settings;

void settings_read(const ConfigView *view, Settings *ret);
int32_t settings_connections_max(const Settings *s, const char *ip); /* from one address */
