#pragma once

/*
 * Replica: what one broker knows about one partition it leads - epochs, in-sync set, high watermark. A pure core: the
 * shell tells it how far each copy of the log reaches and asks who may be answered.
 *
 * INV-REPLICA-1 the high watermark never goes back within one leader epoch
 * INV-REPLICA-2 high watermark <= end of the leader's log; with wait_durable <= durable end of every member of the ISR
 * INV-REPLICA-3 an acknowledgement for acks=all implies high watermark > last offset of the batch
 *
 * wait_durable (flush.messages=1, D6) makes a copy count only as far as it is on stable storage.
 */

#include "base/compiler.h"

#define REPLICAS_MAX 15

typedef struct ReplicaMember {
    int32_t broker_id;
    bool in_sync;
    int64_t end, durable_end; /* as far as known; a follower's come with its fetches */
} ReplicaMember;

typedef struct Replica {
    int32_t self_id;
    int32_t leader_id; /* -1 none */
    int32_t leader_epoch, partition_epoch;
    bool wait_durable;
    int64_t high_watermark;
    ReplicaMember members[REPLICAS_MAX];
    int members_count;
} Replica;

typedef struct ReplicaState { /* from the metadata image */
    int32_t leader_id, leader_epoch, partition_epoch;
    const int32_t *replicas, *isr;
    int replicas_count, isr_count;
} ReplicaState;

void replica_init(Replica *r, int32_t self_id, bool wait_durable, int64_t end, int64_t durable_end, int64_t checkpointed_hw);
/* New leader or ISR. Return: true when the leader epoch rose (the shell writes the epoch cache entry). */
bool replica_apply(Replica *r, const ReplicaState *state);
/* The copy of broker_id reaches this far now. Return: true when the high watermark moved. */
bool replica_progress(Replica *r, int32_t broker_id, int64_t end, int64_t durable_end);
bool replica_set_wait_durable(Replica *r, bool wait_durable); /* true when the high watermark moved */
bool replica_is_leader(const Replica *r);
int replica_in_sync_count(const Replica *r);
/* How far the leader's own copy counts for acks=1. */
int64_t replica_local_end(const Replica *r);
