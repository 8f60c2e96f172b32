#pragma once

/*
 * The core of the group coordinator: Kafka's classic group protocol and committed offsets (kafka-wire.md sections 4.5, 9).
 *
 * group_step() takes one event and appends effects; it makes no system call and reads no clock. The owner decodes
 * requests, sends answers, appends records to __consumer_offsets and keeps one timer for groups_next_deadline().
 *
 * Decide/apply: what must survive - assignments and offsets - is first an effect GROUP_EFFECT_WRITE; memory changes, and
 * the answer goes out, when the event GROUP_WRITTEN says that the records are durable. The change is made by the same
 * function that replays the topic (groups_apply), so a restarted coordinator sees what a client was told.
 *
 * Membership itself - who has joined, who waits - is not written: it lives in memory, and a member that a restarted
 * coordinator does not know gets UNKNOWN_MEMBER_ID and joins again.
 *
 * Memory is bounded by the maxima below and by the size of requests. Where malloc() fails all the same the core aborts: its
 * state is a replay away, half a transition is not.
 *
 * Invariants, checked by the tests: every request is answered once, unless a GROUP_SUSPEND (its asker is gone) came
 * between; a generation only grows; in one generation a member's assignment never changes once it was told; an offset that
 * was acknowledged is found again by replay.
 */

#include "base/hash.h"
#include "wire/messages.h"

#define GROUPS_MAX            100000 /* groups of this host; more are refused, never dropped by replay */
#define GROUP_MEMBERS_MAX     100000 /* members and pending ids of all groups */
#define GROUP_WRITES_MAX      65536  /* not yet durable */
#define GROUP_PROTOCOLS_MAX   64     /* that one member may offer */
#define GROUP_NEW_MEMBER_MS   300000 /* how long a new member may sit in its first JoinGroup */

typedef struct Groups Groups;

typedef struct GroupSettings {
    int32_t session_min_ms, session_max_ms; /* group.min/max.session.timeout.ms */
    int32_t size_max;                       /* group.max.size */
    int32_t initial_delay_ms;               /* group.initial.rebalance.delay.ms; local first members do not wait */
    int32_t metadata_max;                   /* offset.metadata.max.bytes */
    int64_t retention_ms;                   /* offsets.retention.minutes */
} GroupSettings;

typedef enum GroupState { GROUP_EMPTY, GROUP_PREPARING, GROUP_COMPLETING, GROUP_STABLE, GROUP_DEAD } GroupState;

typedef enum GroupPartitionState { PARTITION_NOT_LED, PARTITION_LOADING, PARTITION_LED } GroupPartitionState;

/* Who wants the answer; opaque to the core but for the version. */
typedef struct GroupAsker {
    uint64_t tag;
    int16_t api_key, api_version;
} GroupAsker;

typedef enum GroupEventKind {
    GROUP_REQUEST,
    GROUP_WRITTEN,       /* write_id, error */
    GROUP_TICK,          /* a deadline may be due */
    GROUP_SUSPEND,       /* the askers of all requests are gone; timers stand still */
    GROUP_RESUME,        /* timers start again, in full */
    GROUP_PARTITIONS,    /* partition = how many __consumer_offsets has; 0 = no such topic yet */
    GROUP_LOADING,       /* partition: this host leads it now; groups_apply() follows */
    GROUP_LOADED,        /* partition */
    GROUP_LOST,          /* partition: led by another host, or to be loaded again */
    GROUP_EXPIRE,        /* look for offsets past their retention; wall_ms is believed */
    GROUP_TOPIC_DELETED, /* topic: its offsets go */
} GroupEventKind;

typedef struct GroupEvent {
    GroupEventKind kind;
    int64_t now_ms;  /* monotonic */
    int64_t wall_ms; /* since 1970; stands in records */
    /* GROUP_REQUEST */
    GroupAsker asker;
    const void *body; /* the K...Request of api_key, decoded */
    KStr client_id, client_host;
    int64_t session_id;
    bool local; /* session_id is a session on this host, where the events of its member go */
    /* others */
    uint64_t write_id;
    int16_t error;
    int32_t partition;
    KStr topic;
} GroupEvent;

typedef struct GroupRecord {
    KBytes key;
    KBytes value; /* null: tombstone */
} GroupRecord;

typedef enum GroupEffectKind { GROUP_EFFECT_REPLY, GROUP_EFFECT_WRITE, GROUP_EFFECT_NOTIFY } GroupEffectKind;

typedef struct GroupEffect {
    GroupEffectKind kind;
    GroupAsker asker; /* REPLY */
    KBytes body;      /* REPLY: encoded in asker.api_version */
    uint64_t write_id; /* WRITE: records of one partition, one batch; GROUP_WRITTEN must follow, in order per partition */
    int32_t partition;
    int64_t timestamp_ms;
    const GroupRecord *records;
    size_t n_records;
    KGroupEvent notice; /* NOTIFY */
} GroupEffect;

typedef struct GroupEffects {
    GroupEffect *items;
    size_t n, capacity;
    Arena arena; /* what the items point to */
} GroupEffects;

#define GROUP_EFFECTS_NULL (GroupEffects){0}
void group_effects_clear(GroupEffects *e);
void group_effects_deinit(GroupEffects *e);

typedef struct GroupsOps {
    /* Does the partition exist? Asked for each committed offset. */
    bool (*partition_exists)(void *userdata, KStr topic, int32_t partition);
    void *userdata;
} GroupsOps;

/* @seed: of the generator for member ids; members of two coordinators must never share one. */
int groups_new(const GroupSettings *settings, const GroupsOps *ops, uint64_t seed, Groups **ret);
Groups *groups_free(Groups *g);
void groups_set_settings(Groups *g, const GroupSettings *settings);
/* Effects are appended. */
void group_step(Groups *g, const GroupEvent *event, GroupEffects *out);
/* The moment of the next GROUP_TICK; INT64_MAX: none. May be too early, never too late. */
int64_t groups_next_deadline(Groups *g);

/* Replay of one record of a partition in GROUP_LOADING. Return: 0; -EBADMSG, -EOPNOTSUPP: not understood, skipped. */
int groups_apply(Groups *g, int32_t partition, KBytes key, KBytes value);

/* Is it an API of this core? */
bool groups_handles(int16_t api_key);
GroupPartitionState groups_partition_state(const Groups *g, int32_t partition);

typedef struct GroupsCounts {
    uint64_t groups, members, offsets, rebalances;
} GroupsCounts;
GroupsCounts groups_counts(const Groups *g);

/* Group by group, for tests and `debug bundle`: text, one line per thing that replay must bring back. */
int groups_dump(const Groups *g, Buf *out);
