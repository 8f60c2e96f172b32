/*
 * A tick every 100 ms does a few small things of each kind that is due. See housekeep.h.
 * While the wall clock is not believed (base/wall.h) nothing is thrown away for its age: no segment, tombstone, producer.
 */

#include "broker/housekeep.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/wall.h"
#include "broker/net/net.h"
#include "broker/session.h"

#define TICK_MS           100
#define WALK_NS           NS_PER_MS
#define STATS_MS          1000
#define TRUST_SAVE_MS     60000
#define SLOW_ROUND_NS     (5 * NS_PER_S) /* no healthy disk takes as long */
#define SLOW_SHOWN_MS     60000

struct Housekeeper {
    Broker *broker;
    Deadline tick;
    int64_t stats_ms, checkpoint_ms, retain_ms, compact_ms, producers_ms, save_ms; /* monotonic: when next */
    WallTrust wall;
    int64_t slow_ns, slow_until_ms; /* the longest of the slow rounds, shown until then */
    /* walking all partitions, a few logs per tick and kind */
    char retain_topic[250], compact_topic[250];
    int32_t retain_partition, compact_partition;
    bool retaining, compacting;
};

/* --- the clock --- */

static void show_trust(Housekeeper *h, const char *why)
{
    bool is_trusted = wall_is_trusted(&h->wall);
    counter_set(h->broker->row, COUNTER_CLOCK_DISTRUSTED, !is_trusted); /* the supervisor tells the operator what to do */
    if (why)
        jlog(is_trusted ? LOG_NOTICE : LOG_WARNING, "the wall clock %s: it is %s", why, is_trusted ? "believed" : "not believed");
}

static const char *data_dir(const Housekeeper *h)
{
    return conf_get(&h->broker->conf, "leat.data.dir", ".");
}

static void watch_clock(Housekeeper *h)
{
    switch (wall_look(&h->wall, wall_time())) {
    case WALL_JUMPED:
        show_trust(h, "jumped by more than ten minutes");
        return;
    case WALL_STEADY:
        show_trust(h, "was steady for an hour");
        return;
    case WALL_NO_CHANGE:
        return;
    }
}

int housekeep_accept_clock(Housekeeper *h)
{
    WallTime now = wall_time();
    int r = wall_keep(data_dir(h), now.wall_ms); /* first: the coordinator, and we after a restart, go by it */
    if (r < 0)
        return r;
    wall_accept(&h->wall, now);
    show_trust(h, "was accepted");
    return 0;
}

/* For everything that throws away by age. */
static int64_t believed_ms(const Housekeeper *h)
{
    return wall_is_trusted(&h->wall) ? h->wall.last.wall_ms : INT64_MIN;
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

typedef enum Walk { WALK_DONE, WALK_MORE, WALK_LATER } Walk; /* later: the same log again, in the next tick */

static Walk retain_one(Housekeeper *h)
{
    Broker *b = h->broker;
    Partition *p = next_partition(b, h->retain_topic, sizeof(h->retain_topic), &h->retain_partition);
    if (!p)
        return WALK_DONE;
    int64_t start = plog_start(p->log);
    int r = plog_retain(p->log, believed_ms(h), partition_hw(p));
    if (r < 0)
        partition_log_failed(b, p, "retention", r);
    if (plog_start(p->log) != start)
        partition_wake(b, p); /* who reads below it must hear so */
    return WALK_MORE;
}

/* The log whose pass is under way; NULL: none, or its topic went. */
static Partition *compacting_partition(const Housekeeper *h)
{
    Topic *topic = topic_find(&h->broker->partitions, h->compact_topic, strlen(h->compact_topic));
    Partition *p = topic ? partition_of(topic, h->compact_partition) : NULL;
    return p && p->log && plog_is_compacting(p->log) ? p : NULL;
}

/* A pass runs on a thread of its own; the walk stays with its log until the result is in. */
static Walk compact_one(Housekeeper *h)
{
    Broker *b = h->broker;
    Partition *p = compacting_partition(h);
    if (!p) {
        do {
            p = next_partition(b, h->compact_topic, sizeof(h->compact_topic), &h->compact_partition);
        } while (p && !p->topic->rules.compacted);
    }
    if (!p)
        return WALK_DONE;
    bool did = false;
    int r = plog_compact_background(p->log, believed_ms(h), partition_hw(p), &did);
    if (r < 0)
        partition_log_failed(b, p, "compaction", r);
    return plog_is_compacting(p->log) ? WALK_LATER : WALK_MORE;
}

/* Log after log for a small part of a tick. Return: whether the walk goes on in the next one. */
static bool walk_some(Housekeeper *h, Walk (*one)(Housekeeper *))
{
    int64_t until_ns = clock_mono_ns() + WALK_NS;
    Walk w;
    do {
        w = one(h);
    } while (w == WALK_MORE && clock_mono_ns() < until_ns);
    return w != WALK_DONE;
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

static void watch_disk(Housekeeper *h, const LogDirStats *s, uint64_t rounds_before)
{
    int64_t now_ms = h->wall.last.mono_ms, round_ns = MAX(s->running_round_ns, s->rounds != rounds_before ? s->last_round_ns : 0);
    if (now_ms >= h->slow_until_ms)
        h->slow_ns = 0;
    if (round_ns >= SLOW_ROUND_NS) {
        if (h->slow_ns == 0)
            jlog(LOG_WARNING, "the disk is slow: a sync round takes %.1f s or more, and acknowledgements with it", (double)round_ns / NS_PER_S);
        h->slow_ns = MAX(h->slow_ns, round_ns);
        h->slow_until_ms = now_ms + SLOW_SHOWN_MS;
    }
    counter_set(h->broker->row, COUNTER_SYNC_NS_SLOW, (uint64_t)h->slow_ns);
}

static void read_stats(Housekeeper *h)
{
    Broker *b = h->broker;
    LogDirStats s;
    uint64_t bytes = 0, damaged = 0;
    log_dir_housekeep(b->log_dir, h->wall.last.wall_ms);
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
    watch_disk(h, &s, counter_get(b->row, COUNTER_SYNC_ROUNDS));
    counter_set(b->row, COUNTER_SYNC_ROUNDS, s.rounds);
    counter_set(b->row, COUNTER_SYNC_NS_LAST, (uint64_t)s.last_round_ns);
    counter_set(b->row, COUNTER_SYNC_NS_MAX, (uint64_t)s.max_round_ns);
    counter_set(b->row, COUNTER_SYNC_NS_RUNNING, (uint64_t)s.running_round_ns);
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
    *at_ms = MIN(*at_ms, now_ms + every_ms); /* a reload may have made it shorter */
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
    int64_t now_ms = h->wall.last.mono_ms;
    produce_expire(b, broker_now_ns(b));
    sessions_wake(b->sessions); /* memory may have come back that nobody told of */
    if (is_due(&h->stats_ms, now_ms, STATS_MS))
        read_stats(h);
    if (is_due(&h->checkpoint_ms, now_ms, s->checkpoint_ms))
        checkpoint(b);
    if (is_due(&h->save_ms, now_ms, TRUST_SAVE_MS) && wall_is_trusted(&h->wall))
        (void)wall_keep(data_dir(h), h->wall.last.wall_ms); /* a lost one only makes the check weaker */
    if (is_due(&h->producers_ms, now_ms, s->producer_check_ms))
        expire_producers(b, believed_ms(h));
    if (h->retaining || is_due(&h->retain_ms, now_ms, s->retention_check_ms))
        h->retaining = walk_some(h, retain_one);
    if (s->cleaner_enable && (h->compacting || is_due(&h->compact_ms, now_ms, s->cleaner_backoff_ms)))
        h->compacting = walk_some(h, compact_one);
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
    WallTime now = wall_time();
    int64_t now_ms = now.mono_ms;
    h->stats_ms = now_ms;
    h->checkpoint_ms = now_ms + b->settings.checkpoint_ms;
    h->save_ms = now_ms;
    h->retain_ms = now_ms + MIN(b->settings.retention_check_ms, 30000); /* as Kafka: not while everything starts */
    h->compact_ms = now_ms + b->settings.cleaner_backoff_ms;
    h->producers_ms = now_ms + b->settings.producer_check_ms;
    bool is_trusted = wall_start(&h->wall, now, wall_kept(data_dir(h)));
    show_trust(h, is_trusted ? NULL : "is more than a day off the time that the disk remembers");
    broker_set_deadline(b, &h->tick, TICK_MS);
}
