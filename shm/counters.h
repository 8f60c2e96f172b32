#pragma once

/*
 * The counters file: one regular file in the runtime directory, created by the supervisor, mapped by each daemon and by
 * mqctl. Page 0 is the header; then one page-aligned row per process, written by its owner only (D20). A reader needs no
 * cooperation from a daemon, also when that one hangs or is dead.
 */

#include "base/compiler.h"
#include <stdatomic.h>
#include <sys/types.h>

#define COUNTERS_MAGIC     0x4c43544eu
#define COUNTERS_VERSION   1
#define COUNTERS_ROW_SIZE  4096
#define COUNTERS_ROWS_MAX  8
#define COUNTERS_PER_ROW   256

typedef enum CountersRole { ROW_SUPERVISOR, ROW_CONTROLLER, ROW_BROKER, ROW_COORDINATOR, ROW_COUNT } CountersRole;

/* One list for all: name, help. Index is the position; a role uses those that concern it. */
#define COUNTERS(X)                                                                                \
    X(HEARTBEAT, "heartbeat", "bumped by the main loop at least once a second")                    \
    X(STARTED_MS, "started_ms", "wall clock at start")                                             \
    X(BYTES_IN_TCP, "bytes_in_tcp", "produced over TCP")                                           \
    X(BYTES_IN_SHM, "bytes_in_shm", "produced through sessions")                                   \
    X(BYTES_OUT_TCP, "bytes_out_tcp", "fetched over TCP")                                          \
    X(BYTES_OUT_SHM, "bytes_out_shm", "delivered through sessions")                                \
    X(RECORDS_IN, "records_in", "records appended")                                                \
    X(BATCHES_IN, "batches_in", "batches appended")                                                \
    X(RECORDS_OUT, "records_out", "records delivered (from batch headers)")                        \
    X(REQUESTS, "requests", "Kafka requests handled")                                              \
    X(REQUEST_ERRORS, "request_errors", "requests answered with an error")                         \
    X(CONNECTIONS, "connections", "open TCP connections")                                          \
    X(CONNECTIONS_REFUSED, "connections_refused", "TCP connections closed by a limit")             \
    X(SESSIONS, "sessions", "open local sessions")                                                 \
    X(SESSION_MEMORY, "session_memory", "bytes of session memory")                                 \
    X(SESSIONS_DROPPED, "sessions_dropped", "sessions closed for a violation")                     \
    X(SYNC_ROUNDS, "sync_rounds", "rounds of the sync thread")                                     \
    X(SYNC_NS_LAST, "sync_ns_last", "duration of the last round")                                  \
    X(SYNC_NS_MAX, "sync_ns_max", "longest round")                                                 \
    X(SYNC_NS_RUNNING, "sync_ns_running", "how long the round that runs now has taken so far")     \
    X(SYNC_NS_SLOW, "sync_ns_slow", "longest round over 5 s of the last minute; 0: none")          \
    X(PARTITIONS, "partitions", "partitions open")                                                 \
    X(LOG_BYTES, "log_bytes", "bytes in all logs")                                                 \
    X(DISK_FREE, "disk_free", "bytes free on the data file system")                                \
    X(DISK_LOW, "disk_low", "1: produce is refused (disk.reserve)")                                \
    X(LOGS_DAMAGED, "logs_damaged", "logs with a quarantined range")                               \
    X(RECOVERY_DONE, "recovery_done", "logs recovered so far")                                     \
    X(RECOVERY_TOTAL, "recovery_total", "logs to recover")                                         \
    X(APPLIED_INDEX, "applied_index", "last metadata index applied")                               \
    X(BROKERS, "brokers", "registered brokers, unfenced")                                          \
    X(TOPICS, "topics", "topics")                                                                  \
    X(GROUPS, "groups", "groups known")                                                            \
    X(GROUP_MEMBERS, "group_members", "members of all groups")                                     \
    X(OFFSETS, "offsets", "committed offsets held")                                                \
    X(REBALANCES, "rebalances", "completed rebalances")                                            \
    X(RESTARTS, "restarts", "children restarted")                                                  \
    X(CLOCK_DISTRUSTED, "clock_distrusted", "1: the wall clock is not believed, nothing expires by it (D12)")                \
    X(META_MAP_USED, "meta_map_used", "per mille of the LMDB map in use")

typedef enum CounterId {
#define X(id, name, help) COUNTER_##id,
    COUNTERS(X)
#undef X
        COUNTER_COUNT
} CounterId;
static_assert(COUNTER_COUNT <= COUNTERS_PER_ROW, "a row is 256 counters");

typedef struct CountersRow {
    _Atomic int32_t pid;
    _Atomic uint32_t generation; /* two more at each start of the process; odd while the values are being zeroed */
    uint8_t pad[120];
    _Atomic uint64_t values[COUNTERS_PER_ROW];
} CountersRow;
static_assert(sizeof(CountersRow) <= COUNTERS_ROW_SIZE, "one page");

typedef struct Counters Counters;
/* supervisor; of the build id 24 bytes are kept */
int counters_create(const char *path, const char *build_id, Counters **ret);
/* @role: row mapped writable, zeroed, its generation moved on; ROW_COUNT = read-only. The fd is taken over on success.
 * -ESTALE: the layout or the list of counters differs; whether the build does, the caller asks counters_build_id(). */
int counters_open_fd(int fd, CountersRole role, Counters **ret);
int counters_open(const char *path, CountersRole role, Counters **ret);
int counters_fd(const Counters *c);
const char *counters_build_id(const Counters *c);
Counters *counters_close(Counters *c);
CountersRow *counters_row(Counters *c, CountersRole role);
const char *counter_name(CounterId id);
const char *counter_help(CounterId id);

static inline void counter_set(CountersRow *row, CounterId id, uint64_t v)
{
    atomic_store_explicit(&row->values[id], v, memory_order_relaxed);
}
static inline void counter_add(CountersRow *row, CounterId id, uint64_t v) /* owner only: no read-modify-write needed */
{
    counter_set(row, id, atomic_load_explicit(&row->values[id], memory_order_relaxed) + v);
}
static inline uint64_t counter_get(const CountersRow *row, CounterId id)
{
    return atomic_load_explicit(&row->values[id], memory_order_relaxed);
}
