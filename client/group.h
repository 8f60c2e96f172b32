#pragma once

/*
 * Membership in a consumer group: the client's half of the classic protocol (kafka-wire.md section 9), over requests.
 *
 *   UNJOINED -> REVOKE -> COMMITTING -> JOINING -> (METADATA) -> SYNCING -> APPLY -> STABLE
 *                 ^                                                                    |
 *                 +---- rebalance announced, topics grew, session lost, errors --------+
 *
 * Heartbeats are the broker's: it samples the progress word that leat_poll() bumps, and posts what the coordinator says as a
 * GroupEvent (D23). Steps that call the program's rebalance function run only from leat_poll() and leat_process().
 */

#include "client/consumer.h"
#include "wire/messages.h"


Group *group_new(leat_consumer *k, const char *const *topics, size_t n); /* NULL: out of memory */
/* Leaves (dynamic members) and frees; waits at most timeout_ms for the answer. */
Group *group_free(Group *g, int64_t timeout_ms);
void group_turn(Group *g, int64_t now_ns);
int64_t group_deadline_ns(const Group *g);
bool group_is_gated(const Group *g); /* no records are handed out now: the partitions may belong to another */
void group_session_lost(Group *g);
void group_event(Group *g, KStr group_id, KStr member_id, int8_t kind, int32_t generation, int16_t error_code);
void group_commit_failed(Group *g, int16_t kafka_error);
void group_stamp_commit(const Group *g, KOffsetCommitRequest *q); /* g may be NULL */
void group_metadata_changed(Group *g);

/* ---- leader.c: blobs of the consumer protocol and the leader's work ---- */

typedef struct GroupClaim { /* what this member tells of itself */
    const char *const *topics;
    size_t n_topics;
    Part *const *owned;
    size_t n_owned;
    int32_t generation;
} GroupClaim;

/* Subscription blob for one strategy, appended. Return: 0 or -ENOMEM. */
int leader_encode_subscription(Strategy s, const GroupClaim *claim, Buf *out);
typedef struct Leader Leader; /* members as the coordinator listed them, and the topics that they want */
int leader_new(const KJoinGroupResponse *joined, Leader **ret);
Leader *leader_free(Leader *l);
size_t leader_topics(const Leader *l, const char *const **ret_names);
void leader_set_partitions(Leader *l, KStr topic, int32_t partitions);
/* Does any topic have another count than the one that was set? */
bool leader_topics_changed(const Leader *l, const leat_client *c);
/* Fills `assignments` of the request from the arena. Return: 0, -ENOMEM, -EOPNOTSUPP unknown strategy. */
int leader_assign(const Leader *l, KStr protocol, Arena *arena, KSyncGroupRequest *q);
