/*
 * The link of fab_link.h: a FabClient on a loop, with a timer that connects again.
 *
 * States: down (timer = next attempt), connecting (timer = give up), up. What is queued here was never with the broker and
 * goes with the session all the same: the owner cannot tell it from what was in flight, and re-sends both.
 */

#include "shm/fab_link.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/list.h"

#define BACKOFF_MIN_NS       (10 * NS_PER_MS)
#define BACKOFF_MAX_NS       (1000 * NS_PER_MS)
#define HANDSHAKE_TIMEOUT_MS 1000
#define QUEUE_MAX            (64u << 20)
#define BURST_MAX                                                                                  \
    512 /* frames, and as many completions, before others on the loop have their turn */

typedef struct LinkQueued {
    List link;
    FabSqe sqe;
    size_t size;
    uint8_t payload[];
} LinkQueued;

struct FabLink {
    Loop *loop;
    FabClientOptions o; /* strings are ours */
    FabLinkOps ops;
    void *userdata;
    FabClient *client; /* NULL while down; being connected while !up */
    bool up;
    bool more; /* a burst was cut short, or arming found something */
    LoopFd *source;
    LoopTimer *timer;
    int64_t backoff_ns;
    List queue;
    size_t queue_bytes;
};

static void queue_clear(FabLink *link)
{
    for (List *l; (l = list_pop(&link->queue)) != NULL;)
        free(CONTAINER_OF(l, LinkQueued, link));
    link->queue_bytes = 0;
}

static void drop_client(FabLink *link)
{
    link->up = link->more = false;
    link->source = loop_fd_free(link->source);
    link->client = fab_client_free(link->client);
    queue_clear(link);
}

static void retry_later(FabLink *link)
{
    loop_timer_set(link->timer, clock_mono_ns() + link->backoff_ns);
    link->backoff_ns = MIN(link->backoff_ns * 2, BACKOFF_MAX_NS);
}

static void go_down(FabLink *link)
{
    char why[256];

    (void)snprintf(why, sizeof(why), "%s", fab_client_why(link->client));
    drop_client(link);
    retry_later(link);
    link->ops.down(link->userdata, why);
}

/* ---- sending ---- */

static int push(FabLink *link, const FabSqe *sqe, const void *payload, size_t size)
{
    FabClient *c = link->client;
    FabSqe out = *sqe;

    out.off = 0;
    out.len = (uint32_t)size;
    if (size == 0)
        return fab_client_submit(c, &out);
    if (size > fab_client_welcome(c)->arena_size / 2) /* would wait for an arena nearly free */
        return fab_client_submit_memfd(c, &out, payload, size);
    void *block = fab_arena_alloc(c, (uint32_t)size);
    if (!block)
        return -EAGAIN;
    memcpy(block, payload, size);
    out.off = fab_arena_offset(c, block);
    int r = fab_client_submit_block(c, &out, block);
    if (r < 0)
        fab_arena_free(c, block);
    return r;
}

static void push_queue(FabLink *link)
{
    while (!list_is_empty(&link->queue)) {
        LinkQueued *q = CONTAINER_OF(link->queue.next, LinkQueued, link);

        if (push(link, &q->sqe, q->payload, q->size) < 0)
            return; /* -EAGAIN: later; a dead session shows elsewhere */
        list_remove(&q->link);
        link->queue_bytes -= sizeof(*q) + q->size;
        free(q);
    }
}

static int enqueue(FabLink *link, const FabSqe *sqe, const void *payload, size_t size)
{
    if (link->queue_bytes + sizeof(LinkQueued) + size > QUEUE_MAX)
        return -ENOBUFS;
    LinkQueued *q = malloc(sizeof(*q) + size);
    if (!q)
        return -ENOMEM;
    *q = (LinkQueued){.sqe = *sqe, .size = size};
    if (size > 0)
        memcpy(q->payload, payload, size);
    list_append(&link->queue, &q->link);
    link->queue_bytes += sizeof(*q) + size;
    return 0;
}

int fab_link_send(FabLink *link, const FabSqe *sqe, const void *payload, size_t size)
{
    if (!link->up)
        return -ENOTCONN;
    if (size > FAB_BATCH_MAX)
        return -EMSGSIZE;
    int r = list_is_empty(&link->queue) ? push(link, sqe, payload, size) : -EAGAIN;
    if (r == -EAGAIN)
        r = enqueue(link, sqe, payload, size);
    return r == -ECONNRESET ? -ENOTCONN : r;
}

/* ---- receiving ---- */

/* Callbacks only send; the session cannot go away under this. */
static void drain(FabLink *link)
{
    FabDelivery delivery;
    FabCqe cqe;
    unsigned n_frames = 0, n_completions = 0;

    link->more = false;
    while (n_completions < BURST_MAX && fab_client_reap(link->client, &cqe)) {
        n_completions++;
        link->ops.completion(link->userdata, &cqe);
    }
    while (n_frames < BURST_MAX && fab_client_next(link->client, &delivery)) {
        n_frames++;
        link->ops.frame(link->userdata, &delivery);
        fab_client_release(link->client, delivery.release_at);
    }
    link->more = n_frames == BURST_MAX || n_completions == BURST_MAX;
    if (n_frames + n_completions > 0 && link->ops.turn_end)
        link->ops.turn_end(link->userdata);
}

static void on_client(void *userdata, uint32_t events UNUSED)
{
    FabLink *link = userdata;

    int r = fab_client_process(link->client);
    drain(link); /* also what came before the end */
    if (r < 0 && !link->more)
        go_down(link);
}

/* ---- connecting ---- */

static void go_up(FabLink *link)
{
    link->source = loop_fd_free(link->source);
    if (loop_add_fd(link->loop, fab_client_fd(link->client), EPOLLIN, on_client, link,
                    &link->source) < 0) {
        drop_client(link);
        retry_later(link);
        return;
    }
    loop_timer_set(link->timer, INT64_MAX);
    link->backoff_ns = BACKOFF_MIN_NS;
    link->up = link->more = true;
    link->ops.up(link->userdata, fab_client_welcome(link->client));
}

static void on_handshake(void *userdata, uint32_t events UNUSED)
{
    FabLink *link = userdata;
    char why[256] = "";

    int r = fab_client_finish(link->client, why, sizeof(why));
    if (r == -EAGAIN)
        return;
    if (r == 0) {
        go_up(link);
        return;
    }
    drop_client(link);
    retry_later(link);
    if (why[0] && link->ops.refused)
        link->ops.refused(link->userdata, r, why);
}

static void on_timer(void *userdata)
{
    FabLink *link = userdata;

    if (link->client) /* no answer to HELLO in time */
        drop_client(link);
    else if (fab_client_begin(&link->o, &link->client) == 0) {
        if (loop_add_fd(link->loop, fab_client_socket(link->client), EPOLLIN, on_handshake, link,
                        &link->source) == 0) {
            loop_timer_set(link->timer, clock_mono_ns() + link->o.timeout_ms * NS_PER_MS);
            return;
        }
        drop_client(link);
    }
    retry_later(link);
}

/* ---- hooks ---- */

static void on_turn_end(void *userdata)
{
    FabLink *link = userdata;

    if (!link->up)
        return;
    if (link->more)
        on_client(link, 0);
    if (!link->up)
        return;
    push_queue(link);
    fab_client_flush(link->client);
}

static bool on_before_sleep(void *userdata)
{
    FabLink *link = userdata;

    if (!link->up)
        return true;
    link->more = link->more || !fab_client_arm(link->client);
    return !link->more;
}

/* ---- public ---- */

static int copy_options(FabLink *link, const FabClientOptions *o)
{
    link->o = *o;
    link->o.socket_path = strdup(o->socket_path);
    link->o.client_id = strdup(o->client_id ? o->client_id : "");
    link->o.build_id = strndup(o->build_id ? o->build_id : "", sizeof(((FabHello *)0)->build_id));
    if (link->o.timeout_ms <= 0)
        link->o.timeout_ms = HANDSHAKE_TIMEOUT_MS;
    return link->o.socket_path && link->o.client_id && link->o.build_id ? 0 : -ENOMEM;
}

int fab_link_new(
    Loop *loop, const FabClientOptions *o, const FabLinkOps *ops, void *userdata, FabLink **ret)
{
    FabLink *link = calloc(1, sizeof(*link));
    if (!link)
        return -ENOMEM;
    link->loop = loop;
    link->ops = *ops;
    link->userdata = userdata;
    link->backoff_ns = BACKOFF_MIN_NS;
    list_init(&link->queue);
    int r = copy_options(link, o);
    if (r == 0)
        r = loop_add_timer(loop, on_timer, link, &link->timer);
    if (r == 0)
        r = loop_add_turn_end(loop, on_turn_end, link);
    if (r == 0)
        r = loop_add_before_sleep(loop, on_before_sleep, link);
    if (r < 0) {
        fab_link_free(link);
        return r;
    }
    loop_timer_set(link->timer, clock_mono_ns());
    *ret = link;
    return 0;
}

FabLink *fab_link_free(FabLink *link)
{
    if (!link)
        return NULL;
    drop_client(link);
    loop_timer_free(link->timer);
    free((char *)(uintptr_t)link->o.socket_path);
    free((char *)(uintptr_t)link->o.client_id);
    free((char *)(uintptr_t)link->o.build_id);
    free(link);
    return NULL;
}

bool fab_link_is_up(const FabLink *link)
{
    return link->up;
}

FabClient *fab_link_client(FabLink *link)
{
    return link->up ? link->client : NULL;
}
