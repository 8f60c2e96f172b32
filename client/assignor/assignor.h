#pragma once

/*
 * Assignors: who of a group reads which partition. Pure functions of members and topics; the leader of a group calls one.
 * Results interoperate with Java's and librdkafka's members: only the blobs of the consumer protocol cross the wire, so an
 * assignor owes others validity (every partition of a subscribed topic exactly once, only to subscribers), and its name's
 * promise: range contiguous, roundrobin in turn, sticky balanced with few moves, cooperative-sticky never moving a
 * partition in one step.
 */

#include "base/compiler.h"

#define ASSIGN_MEMBERS_MAX 10000

typedef struct AssignTopic {
    const char *name;
    int32_t partitions; /* 0: unknown topic, nobody gets anything of it */
} AssignTopic;

typedef struct AssignPartition {
    int32_t topic; /* index into the input's topics */
    int32_t partition;
} AssignPartition;

typedef struct AssignMember {
    const char *id;
    const char *instance_id; /* NULL: dynamic */
    const int32_t *topics;   /* indexes of what it subscribes to */
    size_t n_topics;
    const AssignPartition *owned; /* what it says it has */
    size_t n_owned;
    int32_t generation; /* of that claim; -1 unknown */
} AssignMember;

typedef struct AssignInput {
    const AssignTopic *topics;
    size_t n_topics;
    const AssignMember *members;
    size_t n_members;
} AssignInput;

typedef struct AssignShare { /* of one member, in input order */
    AssignPartition *items;
    size_t n, capacity;
} AssignShare;

/* @ret: n_members zeroed shares; free with assign_shares_deinit(), also after a failure. Return: 0; -ENOMEM. */
int assign_range(const AssignInput *in, AssignShare *ret);
int assign_roundrobin(const AssignInput *in, AssignShare *ret);
int assign_sticky(const AssignInput *in, AssignShare *ret);
/* sticky, less what another member still owns: that one gives it up first and the next round hands it over. */
int assign_cooperative(const AssignInput *in, AssignShare *ret);

void assign_shares_deinit(AssignShare *shares, size_t n);

/* Shared by the assignors. */
int assign_give(AssignShare *share, int32_t topic, int32_t partition);
/* Member indexes in Kafka's order: static members by instance id, then the others by member id. */
void assign_order_members(const AssignInput *in, size_t *ret_order);
/* Topic indexes by name. */
void assign_order_topics(const AssignInput *in, size_t *ret_order);
bool assign_subscribes(const AssignMember *m, int32_t topic);
