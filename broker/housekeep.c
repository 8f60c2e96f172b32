/*
 * A tick every 100 ms does one small thing of each kind that is due. See housekeep.h.
 *
 * The clock (D12): wall time must have advanced like monotonic time; a jump of more than 10 minutes, or of more than a day
 * against the time kept on disk, holds time retention back until an hour has passed without another.
 */

#include "broker/housekeep.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/log.h"
#include "broker/net/net.h"
#include "broker/session.h"

#define TICK_MS           100
#define STATS_MS          1000
#define CHECKPOINT_MS     5000
#define TRUST_SAVE_MS     60000
#define JUMP_MS           (10 * 60 * 1000)
#define DISK_JUMP_MS      (24 * 60 * 60 * 1000LL)
#define STABLE_MS         (60 * 60 * 1000LL)
#define TIME_FILE         "last-time"

struct Housekeeper {
    Broker *broker;
    Deadline tick;
    int64_t stats_ms, checkpoint_ms, retain_ms, compact_ms, producers_ms, save_ms; /* monotonic: when next */
    int64_t mono_ms, wall_ms; /* at the last tick */
    int64_t distrusted_until_ms; /* monotonic; 0 = trusted */
    char time_path[512];
    /* walking all partitions, one log per tick and kind */
    char retain_topic[250], compact_topic[250];
    int32_t retain_partition, compact_partition;
    bool retaining, compacting;
};

/* --- the clock --- */

static void distrust(Housekeeper *h, const char *why, int64_t off_ms)
{
    char text[32];
    format_duration_ms(off_ms < 0 ? -off_ms : off_ms, text, sizeof(text));
    jlog(LOG_WARNING, "the wall clock %s by %s: time retention waits until it was stable for an hour", why, text);
    h->distrusted_until_ms = clock_mono_ms() + STABLE_MS;
    counter_set(h->broker->row, COUNTER_CLOCK_DISTRUSTED, 1);
}

static void watch_clock(Housekeeper *h)
{
    int64_t mono_ms = clock_mono_ms(), wall_ms = clock_wall_ms();
    int64_t off_ms = (wall_ms - h->wall_ms) - (mono_ms - h->mono_ms);
    if (off_ms > JUMP_MS || off_ms < -JUMP_MS)
        distrust(h, "jumped", off_ms);
    h->mono_ms = mono_ms;
    h->wall_ms = wall_ms;
    if (h->distrusted_until_ms > 0 && mono_ms >= h->distrusted_until_ms) {
        h->distrusted_until_ms = 0;
        counter_set(h->broker->row, COUNTER_CLOCK_DISTRUSTED, 0);
        jlog(LOG_NOTICE, "the wall clock was stable for an hour: time retention goes on");
    }
}

static void compare_with_disk(Housekeeper *h)
{
    Buf text = BUF_NULL;
    int64_t kept_ms = 0;
    if (fs_read_file(h->time_path, 64, &text) == 0) {
        char *newline = memchr(text.data, '\n', text.size);
        if (newline)
            *newline = '\0';
        if (parse_i64((const char *)text.data, &kept_ms) == 0 && kept_ms > 0 &&
            (h->wall_ms - kept_ms > DISK_JUMP_MS || h->wall_ms - kept_ms < -DISK_JUMP_MS))
            distrust(h, "differs from the time kept on disk", h->wall_ms - kept_ms);
    }
    buf_deinit(&text);
}

static void save_time(Housekeeper *h)
{
    char text[32];
    int n = snprintf(text, sizeof(text), "%lld\n", (long long)h->wall_ms);
    if (h->distrusted_until_ms == 0)
        (void)fs_write_file_atomic(h->time_path, text, (size_t)n, 0640); /* a lost one only makes the check weaker */
}

/* --- walking the logs --- */

/* The partition after (topic, index) in table order. The topic may be gone: then the walk ends early and begins anew. */
static Partition *next_partition(Broker *b, char *topic_name, size_t name_size, int32_t *index)
{
    Topic *topic = topic_name[0] ? topic_find(&b->partitions, topic_name, strlen(topic_name)) : topic_next(&b->partitions, NULL);
    if (!topic_name[0])
        *index = -1;
    while (topic) {
        for (int32_t i = *index + 1; i < topic->partitions_count; i++) {
            if (topic->partitions[i] && topic->partitions[i]->log) {
                snprintf(topic_name, name_size, "%s", topic->name);
                *index = i;
                return topic->partitions[i];
            }
        }
        topic = topic_next(&b->partitions, topic);
        *index = -1;
    }
    topic_name[0] = '\0';
    return NULL;
}

static void retain_one(Housekeeper *h)
{
    Broker *b = h->broker;
    Partition *p = next_partition(b, h->retain_topic, sizeof(h->retain_topic), &h->retain_partition);
    h->retaining = p != NULL;
    if (!p)
        return;
    int64_t start = plog_start(p->log);
    int r = plog_retain(p->log, h->distrusted_until_ms > 0 ? INT64_MIN : h->wall_ms, partition_hw(p));
    if (r < 0)
        partition_log_failed(b, p, "retention", r);
    if (plog_start(p->log) != start)
        partition_wake(b, p); /* who reads below it must hear so */
}

static void compact_one(Housekeeper *h)
{
    Broker *b = h->broker;
    Partition *p;
    do {
        p = next_partition(b, h->compact_topic, sizeof(h->compact_topic), &h->compact_partition);
    } while (p && !p->topic->rules.compacted);
    h->compacting = p != NULL;
    if (!p)
        return;
    bool did = false;
    int r = plog_compact(p->log, h->wall_ms, partition_hw(p), &did);
    if (r < 0)
        partition_log_failed(b, p, "compaction", r);
}

static void expire_producers(Broker *b, int64_t now_ms)
{
    for (Topic *t = topic_next(&b->partitions, NULL); t; t = topic_next(&b->partitions, t)) {
        for (int32_t i = 0; i < t->partitions_count; i++) {
            if (t->partitions[i] && t->partitions[i]->log)
                plog_expire_producers(t->partitions[i]->log, now_ms, b->settings.producer_id_expiration_ms);
        }
    }
}

/* Index tails and producer snapshots of the logs, then the directory's checkpoint files. */
static void checkpoint(Broker *b)
{
    for (Topic *t = topic_next(&b->partitions, NULL); t; t = topic_next(&b->partitions, t)) {
        for (int32_t i = 0; i < t->partitions_count; i++) {
            Partition *p = t->partitions[i];
            int r = p && p->log ? plog_checkpoint(p->log) : 0;
            if (r < 0)
                partition_log_failed(b, p, "checkpoint", r);
        }
    }
    if (log_dir_checkpoint(b->log_dir) == -EIO)
        child_fail(b->child, 74, "checkpoint failed");
}

/* --- figures --- */

static void read_stats(Housekeeper *h)
{
    Broker *b = h->broker;
    LogDirStats s;
    uint64_t bytes = 0, damaged = 0;
    log_dir_housekeep(b->log_dir, h->wall_ms);
    log_dir_stats(b->log_dir, &s);
    if (s.low != b->disk_low)
        jlog(s.low ? LOG_WARNING : LOG_NOTICE, s.low ? "less than disk.reserve is free: producing is refused"
                                                     : "disk.reserve is free again: producing goes on");
    b->disk_low = s.low;
    for (Topic *t = topic_next(&b->partitions, NULL); t; t = topic_next(&b->partitions, t)) {
        for (int32_t i = 0; i < t->partitions_count; i++) {
            const Partition *p = t->partitions[i];
            bytes += p && p->log ? (uint64_t)plog_size(p->log) : 0;
            damaged += !p || !p->log ? 0 : plog_is_damaged(p->log);
        }
    }
    counter_set(b->row, COUNTER_SYNC_ROUNDS, s.rounds);
    counter_set(b->row, COUNTER_SYNC_NS_LAST, (uint64_t)s.last_round_ns);
    counter_set(b->row, COUNTER_SYNC_NS_MAX, (uint64_t)s.max_round_ns);
    counter_set(b->row, COUNTER_DISK_FREE, (uint64_t)s.free_bytes);
    counter_set(b->row, COUNTER_DISK_LOW, s.low);
    counter_set(b->row, COUNTER_LOG_BYTES, bytes);
    counter_set(b->row, COUNTER_LOGS_DAMAGED, damaged);
    counter_set(b->row, COUNTER_SESSIONS, fab_server_sessions(b->fabric));
    counter_set(b->row, COUNTER_SESSION_MEMORY, fab_server_memory(b->fabric));
    counter_set(b->row, COUNTER_SESSIONS_DROPPED, fab_server_violations(b->fabric));
    counter_set(b->row, COUNTER_CONNECTIONS, net_connections(b->net));
}

static bool is_due(int64_t *at_ms, int64_t now_ms, int64_t every_ms)
{
    if (now_ms < *at_ms)
        return false;
    *at_ms = now_ms + every_ms;
    return true;
}

static void tick(Deadline *d)
{
    Housekeeper *h = CONTAINER_OF(d, Housekeeper, tick);
    Broker *b = h->broker;
    const Settings *s = &b->settings;
    watch_clock(h);
    int64_t now_ms = h->mono_ms;
    produce_expire(b, broker_now_ns(b));
    sessions_wake(b->sessions); /* memory may have come back that nobody told of */
    if (is_due(&h->stats_ms, now_ms, STATS_MS))
        read_stats(h);
    if (is_due(&h->checkpoint_ms, now_ms, CHECKPOINT_MS))
        checkpoint(b);
    if (is_due(&h->save_ms, now_ms, TRUST_SAVE_MS))
        save_time(h);
    if (is_due(&h->producers_ms, now_ms, s->producer_check_ms))
        expire_producers(b, h->wall_ms);
    if (h->retaining || is_due(&h->retain_ms, now_ms, s->retention_check_ms))
        retain_one(h);
    if (s->cleaner_enable && (h->compacting || is_due(&h->compact_ms, now_ms, s->cleaner_backoff_ms)))
        compact_one(h);
    broker_set_deadline(b, &h->tick, TICK_MS);
}

int housekeep_new(Broker *b, Housekeeper **ret)
{
    Housekeeper *h = calloc(1, sizeof(*h));
    if (!h)
        return -ENOMEM;
    h->broker = b;
    h->tick.fn = tick;
    *ret = h;
    return 0;
}

Housekeeper *housekeep_free(Housekeeper *h)
{
    if (!h)
        return NULL;
    deadline_clear(&h->broker->deadlines, &h->tick);
    free(h);
    return NULL;
}

void housekeep_start(Housekeeper *h)
{
    Broker *b = h->broker;
    int64_t now_ms = clock_mono_ms();
    h->mono_ms = now_ms;
    h->wall_ms = clock_wall_ms();
    h->stats_ms = now_ms;
    h->checkpoint_ms = now_ms + CHECKPOINT_MS;
    h->save_ms = now_ms + TRUST_SAVE_MS;
    h->retain_ms = now_ms + MIN(b->settings.retention_check_ms, 30000); /* as Kafka: not while everything starts */
    h->compact_ms = now_ms + b->settings.cleaner_backoff_ms;
    h->producers_ms = now_ms + b->settings.producer_check_ms;
    snprintf(h->time_path, sizeof(h->time_path), "%s/" TIME_FILE, conf_get(&b->conf, "leat.data.dir", ""));
    compare_with_disk(h);
    broker_set_deadline(b, &h->tick, TICK_MS);
}
