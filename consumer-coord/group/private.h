#pragma once

/* Groups, members and pending writes, as the files of group/ share them. */

#include "base/list.h"
#include "consumer-coord/group/group.h"
#include "consumer-coord/group/timers.h"
#include "consumer-coord/offsets/records.h"

typedef struct Group Group;
typedef struct Member Member;

typedef enum TimerKind { TIMER_MEMBER, TIMER_PENDING, TIMER_PHASE } TimerKind;

typedef struct Parked { /* a request that waits for the group */
    bool is;
    GroupAsker asker;
} Parked;

typedef struct Protocols { /* what a member offers, in its order; one allocation */
    struct {
        KStr name;
        KBytes metadata;
    } *items;
    int32_t n;
} Protocols;

struct Member {
    List node; /* Group.members, in order of joining */
    Group *group;
    char *id, *instance_id; /* instance_id NULL: dynamic */
    char *client_id, *client_host;
    int32_t session_timeout_ms, rebalance_timeout_ms;
    Protocols protocols;
    void *assignment;
    int32_t assignment_size;
    Parked join, sync;
    GroupTimer timer;  /* session */
    bool is_new;       /* sits in its first JoinGroup: GROUP_NEW_MEMBER_MS instead of the session */
    bool id_is_known;  /* the client has named this id itself */
    bool has_synced;   /* in this generation */
    bool local;
    int64_t session_id;
};

typedef struct Pending { /* an id that was given out with MEMBER_ID_REQUIRED */
    List node;
    Group *group;
    char *id;
    int32_t session_timeout_ms;
    GroupTimer timer;
} Pending;

typedef enum Phase { PHASE_NONE, PHASE_INITIAL, PHASE_JOIN, PHASE_SYNC } Phase;

struct Group {
    Group *next; /* in its bucket */
    char *id;
    uint64_t serial; /* never used again for another group */
    int32_t partition;
    GroupState state;
    int32_t generation;
    char *protocol_type, *protocol; /* NULL: none yet */
    Member *leader;
    List members;
    int32_t n_members;
    List pending;
    int32_t n_pending;
    Phase phase;
    GroupTimer timer;        /* of the phase */
    int32_t initial_left_ms; /* how much longer PHASE_INITIAL may be extended */
    bool new_member_added;   /* during this stretch of PHASE_INITIAL */
    bool sync_is_written;    /* the leader's assignments are on their way to the log */
    int64_t state_since_ms;  /* wall clock */
    uint64_t changes;        /* bumped by each rebalance: tells a write that comes back too late */
    OffsetTable offsets;
};

/* An answer that waits for one or several writes. */
typedef struct Reply {
    int refs;
    bool is_dead; /* nobody waits any more */
    GroupAsker asker;
    const KMessage *message;
    void *response;
    Arena arena;
} Reply;

typedef enum WriteKind {
    WRITE_RECORDS, /* applied when durable */
    WRITE_SYNC,    /* assignments of a generation */
    WRITE_GROUP,   /* memory is ahead: nothing to apply */
    WRITE_DELETE,  /* tombstones of a group in GROUP_DEAD */
} WriteKind;

typedef struct Write {
    List node;
    uint64_t id;
    WriteKind kind;
    int32_t partition;
    uint64_t group_serial, changes;
    char *group_id;
    GroupRecord *records;
    size_t n, capacity;
    Reply *reply;      /* may be NULL */
    int16_t **errors;  /* places in reply->response that a failure fills */
    size_t n_errors;
    Arena arena;
} Write;

#define BUCKETS_COUNT 4096

struct Groups {
    GroupSettings settings;
    GroupsOps ops;
    Rng rng;
    Group *buckets[BUCKETS_COUNT];
    uint8_t *partitions; /* GroupPartitionState */
    int32_t n_partitions;
    GroupTimers timers;
    List writes; /* Write.node, oldest first */
    size_t n_writes;
    uint64_t next_write_id, next_serial;
    bool suspended;
    GroupsCounts counts;
};

typedef struct Step { /* what every handler gets */
    Groups *g;
    const GroupEvent *ev;
    GroupEffects *out;
} Step;

static inline const char *str_or_empty(const char *s)
{
    return s ? s : "";
}

/* table.c: memory, look-ups, effects */
void *must(void *p); /* aborts on NULL */
char *str_copy(KStr s);  /* NULL for null */
void str_set(char **s, KStr value);
bool has_nul(KStr s); /* names are kept as C strings: such ones are refused */
Group *group_find(const Groups *g, KStr id);
Group *group_by_serial(const Groups *g, const char *id, uint64_t serial);
Group *group_add(Groups *g, KStr id, int32_t partition); /* does not look at GROUPS_MAX: replay must not lose one */
void group_remove(Groups *g, Group *group);              /* nobody may wait in it */
Group *groups_next(const Groups *g, const Group *after);  /* all groups; NULL begins, NULL ends */
Member *member_add(Groups *g, Group *group, KStr id);
void member_free(Groups *g, Member *m);
Member *member_find(const Group *group, KStr id);
Member *member_by_instance(const Group *group, KStr instance_id);
Pending *pending_add(Groups *g, Group *group, KStr id, int32_t session_timeout_ms);
Pending *pending_find(const Group *group, KStr id);
void pending_free(Groups *g, Pending *p);
void protocols_set(Protocols *p, const KJoinGroupRequest *q);
bool protocols_equal(const Protocols *p, const KJoinGroupRequest *q);
const KBytes *protocols_find(const Protocols *p, const char *name);
void member_set_assignment(Member *m, KBytes assignment);
bool members_full(const Groups *g);
bool groups_full(const Groups *g);

GroupEffect *effect_new(Step *s, GroupEffectKind kind);
void *effect_alloc(Step *s, size_t size);
void reply(Step *s, const GroupAsker *asker, const KMessage *m, const void *response);
void notify_member(Step *s, const Member *m, int8_t kind, int16_t error);
#define EVENT_REBALANCE  0
#define EVENT_FENCED     1
#define EVENT_ASSIGNMENT 2

/* persist.c: records, and what becomes of them */
Write *write_new(Step *s, WriteKind kind, const Group *group, Reply *reply);
void write_offset(Write *w, const char *group, KStr topic, const CommittedOffset *o, KStr metadata);
void write_offset_tombstone(Write *w, const char *group, KStr topic, int32_t partition);
typedef struct NewAssignments { /* of a SyncGroup that is not applied yet; NULL: the members' own */
    const KSyncGroupRequest *request;
} NewAssignments;
void write_group(Write *w, const Group *group, const NewAssignments *assignments);
void write_group_tombstone(Write *w, const char *group);
void write_start(Step *s, Write *w); /* one without records is over at once */
void write_end(Step *s, Write *w);   /* its part of the reply is done */
void write_free(Groups *g, Write *w);
void on_written(Step *s);
bool writes_full(const Groups *g);
void drop_if_hollow(Groups *g, Group *group); /* no generation, no offset, nobody in it: as if it had never been */
Reply *reply_new(Step *s, const KMessage *m);
KStr reply_str(Reply *r, KStr s);      /* a copy that lives as long as the reply */
void reply_release(Step *s, Reply *r); /* sends it with the last reference */

/* join.c, rebalance.c, sync.c */
void on_join(Step *s);
void on_sync(Step *s);
void on_heartbeat(Step *s);
void on_leave(Step *s);
int16_t validate_member(const Group *group, KStr member_id, KStr instance_id, Member **ret);
void touch_member(Step *s, Member *m); /* it lives: session timer, and where its events go */
void prepare_rebalance(Step *s, Group *group);
void maybe_prepare_rebalance(Step *s, Group *group);
void try_complete_join(Step *s, Group *group);
/* Takes the member out, answers what it had parked with `error`, and lets the group go on. */
void expel_member(Step *s, Member *m, int16_t error);
void group_lost_member(Step *s, Group *group); /* after removals: rebalance or complete the join */
void phase_set(Step *s, Group *group, Phase phase, int64_t delay_ms);
int32_t group_rebalance_timeout(const Group *group);
void answer_join(Step *s, Member *m, const GroupAsker *asker, const char *leader, bool with_members, bool skip_assignment);
void answer_join_error(Step *s, const GroupAsker *asker, int16_t error, KStr member_id);
void answer_sync(Step *s, Member *m, int16_t error); /* what it has parked */
void answer_sync_error(Step *s, const GroupAsker *asker, int16_t error);
void on_assignments_written(Step *s, Group *group, int16_t error);
void on_timers(Step *s);
void on_suspend(Step *s);
void on_resume(Step *s);
void group_arm_all(Step *s, Group *group);
bool join_offers_protocol(const KJoinGroupRequest *q, const Group *group);
bool group_would_keep_protocol(const Group *group);

/* commit.c, describe.c, delete.c */
void on_commit(Step *s);
void on_fetch(Step *s);
void on_describe(Step *s);
void on_list(Step *s);
void on_delete_groups(Step *s);
void on_offset_delete(Step *s);
void on_expire(Step *s);
void on_topic_deleted(Step *s);
const char *group_state_name(GroupState state);

/* step.c */
int16_t partition_error(const Groups *g, KStr group_id, int32_t *ret_partition); /* 0, 14, 15, 16 */
