#pragma once

/*
 * The configuration of libleat: one table of keys with type, default and bounds (conf.c). leat_conf keeps what the program
 * wrote as text; Settings is the same in C types, made once when a client, producer or consumer is made.
 */

#include "base/compiler.h"
#include "client/include/leat/leat.h"

#define CONF_STRATEGIES_MAX 4

typedef enum Partitioner { PARTITIONER_MURMUR2, PARTITIONER_STICKY, PARTITIONER_ROUNDROBIN } Partitioner;
typedef enum OffsetReset { RESET_EARLIEST, RESET_LATEST, RESET_NONE } OffsetReset;
typedef enum Strategy { STRATEGY_RANGE, STRATEGY_ROUNDROBIN, STRATEGY_STICKY, STRATEGY_COOPERATIVE, STRATEGY_COUNT } Strategy;

typedef struct Settings {
    char *bootstrap_servers, *client_id, *group_id, *group_instance_id, *strategies_text; /* "" = not given */
    int64_t acks;        /* choice index: see settings_acks() */
    int64_t compression; /* BatchCodec */
    int64_t compression_level;
    int64_t partitioner, offset_reset, isolation;
    int64_t linger_ms, batch_size, idempotence, delivery_timeout_ms, request_timeout_ms, connect_timeout_ms, buffer_memory, retry_backoff_ms;
    int64_t auto_commit, auto_commit_interval_ms, session_timeout_ms, heartbeat_interval_ms, max_poll_interval_ms;
    int64_t fetch_min_bytes, fetch_max_wait_ms, max_partition_fetch_bytes, check_crcs;
    int64_t reconnect_backoff_ms, reconnect_backoff_max_ms, metadata_max_age_ms, auto_create;
    int64_t lease_min_bytes; /* behind by more: closed segments are read by lease; 0 = never */
    int64_t arena_bytes, delivery_bytes; /* of the session; 0 = the broker's default, both grow on use */
    Strategy strategies[CONF_STRATEGIES_MAX]; /* partition.assignment.strategy in order of preference */
    size_t n_strategies;
} Settings;

int settings_load(const leat_conf *conf, Settings *ret); /* conf NULL: all defaults */
void settings_deinit(Settings *s);
const char *strategy_name(Strategy s);

static inline int16_t settings_acks(const Settings *s) /* Kafka's number: 0, 1 or -1 (all) */
{
    return (int16_t)(s->acks == 2 ? -1 : s->acks);
}
/* NULL unless bootstrap.servers names a socket path ("unix:/path" or "/path"). */
const char *settings_socket_path(const Settings *s);

bool settings_name_a_broker(const Settings *s);

/* What was set beyond our own keys: librdkafka's properties, for the TCP road. NULL past the end. */
const char *conf_extra(const leat_conf *conf, size_t i, const char **ret_value);
