/* See replica.h. The high watermark is the minimum over the in-sync set, computed anew at each step: sets are small. */

#include "broker/replica/replica.h"

static ReplicaMember *find(Replica *r, int32_t broker_id)
{
    for (int i = 0; i < r->members_count; i++) {
        if (r->members[i].broker_id == broker_id)
            return &r->members[i];
    }
    return NULL;
}

static const ReplicaMember *self(const Replica *r)
{
    for (int i = 0; i < r->members_count; i++) {
        if (r->members[i].broker_id == r->self_id)
            return &r->members[i];
    }
    return NULL;
}

static int64_t counted_end(const Replica *r, const ReplicaMember *m)
{
    return r->wait_durable ? m->durable_end : m->end;
}

static bool advance(Replica *r)
{
    if (!replica_is_leader(r))
        return false;
    int64_t lowest = INT64_MAX;
    for (int i = 0; i < r->members_count; i++) {
        if (r->members[i].in_sync)
            lowest = MIN(lowest, counted_end(r, &r->members[i]));
    }
    if (lowest == INT64_MAX)
        return false;
    lowest = MIN(lowest, self(r)->end); /* INV-REPLICA-2, also when metadata names an ISR without its leader */
    if (lowest <= r->high_watermark)
        return false;
    r->high_watermark = lowest;
    return true;
}

void replica_init(Replica *r, int32_t self_id, bool wait_durable, int64_t end, int64_t durable_end, int64_t checkpointed_hw)
{
    assert(durable_end <= end);
    *r = (Replica){.self_id = self_id,
                   .leader_id = -1,
                   .leader_epoch = -1,
                   .partition_epoch = -1,
                   .wait_durable = wait_durable,
                   .high_watermark = MAX(0, MIN(checkpointed_hw, end)),
                   .members_count = 1};
    r->members[0] = (ReplicaMember){.broker_id = self_id, .end = end, .durable_end = durable_end};
}

bool replica_apply(Replica *r, const ReplicaState *state)
{
    bool new_epoch = state->leader_epoch > r->leader_epoch;
    ReplicaMember old[REPLICAS_MAX];
    int old_count = r->members_count;
    for (int i = 0; i < old_count; i++)
        old[i] = r->members[i];

    ReplicaMember me = *self(r);
    me.in_sync = false;
    r->members_count = 0;
    r->members[r->members_count++] = me;
    for (int i = 0; i < state->replicas_count && r->members_count < REPLICAS_MAX; i++) {
        if (state->replicas[i] == r->self_id)
            continue;
        ReplicaMember m = {.broker_id = state->replicas[i]};
        for (int j = 0; j < old_count && !new_epoch; j++) { /* a new epoch forgets what followers said */
            if (old[j].broker_id == m.broker_id)
                m = old[j];
        }
        m.in_sync = false;
        r->members[r->members_count++] = m;
    }
    for (int i = 0; i < state->isr_count; i++) {
        ReplicaMember *m = find(r, state->isr[i]);
        if (m)
            m->in_sync = true;
    }
    r->leader_id = state->leader_id;
    r->leader_epoch = MAX(r->leader_epoch, state->leader_epoch);
    r->partition_epoch = state->partition_epoch;
    advance(r);
    return new_epoch && replica_is_leader(r);
}

bool replica_progress(Replica *r, int32_t broker_id, int64_t end, int64_t durable_end)
{
    assert(durable_end <= end);
    ReplicaMember *m = find(r, broker_id);
    if (!m)
        return false;
    m->end = end;
    m->durable_end = durable_end;
    return advance(r);
}

bool replica_set_wait_durable(Replica *r, bool wait_durable)
{
    r->wait_durable = wait_durable;
    return advance(r);
}

bool replica_is_leader(const Replica *r)
{
    return r->leader_id == r->self_id;
}

int replica_in_sync_count(const Replica *r)
{
    int n = 0;
    for (int i = 0; i < r->members_count; i++)
        n += r->members[i].in_sync;
    return n;
}

int64_t replica_local_end(const Replica *r)
{
    return counted_end(r, self(r));
}
