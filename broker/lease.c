/* See lease.h. */

#include "broker/lease.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct Lease {
    List node; /* Session.leases */
    Topic *topic;
    int32_t partition;
    uint64_t segment_id, tag;
} Lease;

static void end(Lease *lease)
{
    Partition *p = partition_of(lease->topic, lease->partition);
    if (p && p->log)
        plog_lease_end(p->log, lease->segment_id);
    list_remove(&lease->node);
    topic_unref(lease->topic);
    free(lease);
}

static void refuse(Session *s, const FabSqe *sqe, KafkaError error)
{
    FabFrame frame = {.type = FAB_FRAME_LEASE,
                      .tag = sqe->user_data,
                      .handle = sqe->handle,
                      .partition = sqe->partition,
                      .kafka_error = error};
    (void)fab_session_send(s->fab, &frame, NULL);
}

static size_t count(const Session *s)
{
    size_t n = 0;
    list_for_each(l, &s->leases)
        n++;
    return n;
}

int lease_grant(Session *s, const FabSqe *sqe, const void *payload)
{
    int64_t offset;
    if (sqe->len < sizeof(offset))
        return -EBADMSG;
    memcpy(&offset, payload, sizeof(offset));
    const SessionTopic *t = sqe->handle < s->handles_count ? &s->handles[sqe->handle] : NULL;
    Partition *p = t ? partition_of(t->topic, sqe->partition) : NULL;
    KafkaError e = t && !t->may_read ? K_TOPIC_AUTHORIZATION_FAILED : partition_check(p, -1);
    if (e != K_NONE || count(s) >= LEASES_MAX) {
        refuse(s, sqe, e != K_NONE ? e : K_POLICY_VIOLATION);
        return 0;
    }
    PlogLease grant;
    int r = plog_lease(p->log, offset, partition_hw(p), &grant);
    if (r != 0) {
        refuse(s, sqe, r == PLOG_E_OUT_OF_RANGE ? K_OFFSET_OUT_OF_RANGE : K_OFFSET_NOT_AVAILABLE);
        return 0;
    }
    Lease *lease = calloc(1, sizeof(*lease));
    if (!lease) {
        close(grant.fd);
        plog_lease_end(p->log, grant.segment_id);
        refuse(s, sqe, K_UNKNOWN_SERVER_ERROR);
        return 0;
    }
    *lease = (Lease){
        .topic = topic_ref(t->topic), .partition = sqe->partition, .segment_id = grant.segment_id, .tag = sqe->user_data};
    list_init(&lease->node);
    list_append(&s->leases, &lease->node);
    FabLeaseRange range = {grant.position, grant.end_position, grant.first_offset};
    FabFrame frame = {.type = FAB_FRAME_LEASE,
                      .size = sizeof(range),
                      .tag = sqe->user_data,
                      .handle = sqe->handle,
                      .partition = sqe->partition,
                      .next_offset = grant.next_offset,
                      .high_watermark = partition_hw(p),
                      .log_start = plog_start(p->log),
                      .leader_epoch = p->replica.leader_epoch};
    (void)fab_session_send_fds(s->fab, &frame, &range, &grant.fd, 1);
    close(grant.fd);
    return 0;
}

int16_t lease_release(Session *s, uint64_t tag)
{
    list_for_each(l, &s->leases) {
        Lease *lease = CONTAINER_OF(l, Lease, node);
        if (lease->tag == tag) {
            end(lease);
            return K_NONE;
        }
    }
    return K_RESOURCE_NOT_FOUND;
}

void lease_session_closed(Session *s)
{
    while (!list_is_empty(&s->leases))
        end(CONTAINER_OF(s->leases.next, Lease, node));
}
