#pragma once

/*
 * Sessions: what the descriptors of a local session mean. Handles stand for topics whose rights were checked; produce goes
 * to produce.h, subscriptions to delivery.h, Kafka requests to api/, answers of our own daemons to daemon.h.
 */

#include "broker/api/api.h"
#include "shm/fab_server.h"

#define SESSION_HANDLES_MAX  16384
#define SESSION_REQUESTS_MAX 256 /* open at once; more stay in the submission queue */

typedef struct Session Session;

typedef struct SessionTopic {
    Topic *topic; /* referenced */
    bool may_write, may_read;
} SessionTopic;

struct Session {
    Broker *broker;
    FabSession *fab;
    Principal who;
    SessionTopic *handles;
    uint32_t handles_count, handles_capacity;
    List requests; /* Request.source_node */
    uint32_t requests_count;
    List produces; /* Produce.owner_node */
    List node;     /* Sessions.all */
    /* delivery.h */
    List ready_node;    /* in Delivery.ready */
    List subscriptions; /* Subscription.session_node */
    uint32_t subscriptions_count;
    List *by_partition; /* delivery.c: buckets of Subscription.bucket_node, made with the first */
    List ready;         /* Subscription.ready_node: has or may have data */
    bool no_space;      /* the ring is full until on_space */
    List leases;        /* lease.c */
    List retry_node;    /* in Sessions.retry: descriptors were left in the queue */
};

int sessions_new(Broker *b, Sessions **ret);
Sessions *sessions_free(Sessions *s);
int sessions_listen(Sessions *s, int listen_fd);
Session *session_by_id(const Broker *b, uint64_t session_id);
void sessions_set_siblings(Sessions *s, const ChildSibling *children, size_t n);
void session_notify(Session *s, int16_t type, const void *message, size_t size); /* FAB_FRAME_NOTIFY */
/* Memory or a request slot is free again, or the broker is ready: who left descriptors in the queue tries again. */
void sessions_wake(Sessions *s);
void sessions_run(Sessions *s); /* end of turn: sessions that had to leave descriptors in their queue are scanned again */
