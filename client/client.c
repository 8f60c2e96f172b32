/*
 * The connection: a session of shm/fab_client.h that is replaced when the broker dies, behind one epoll fd that stays.
 *
 * Life of a session
 *   up      a new FabClient; its fd enters our epoll set; topics are opened anew, requests that allow it are sent again,
 *           producers re-send what was not acknowledged (same producer id, epoch, sequence: the broker drops doubles),
 *           consumers subscribe at their own next offset and groups rejoin
 *   down    -ECONNRESET from any call sets `broken`; the next turn moves un-acked batches out of the dead arena, forgets
 *           ops and held frames, and keeps the dead session's maps as long as records in them are borrowed
 *
 * Invariants
 *   INV-CLIENT-1 an op slot's id is never reused: a completion of a forgotten op finds nothing
 *   INV-CLIENT-2 frames are released in the order in which they were taken, each once
 *   INV-CLIENT-3 callbacks of requests never call the program; only leat_poll()/leat_process() do, outside of dispatch
 */

#include "client/client.h"
#include "base/clock.h"
#include "client/consumer.h"
#include "client/producer.h"
#include "client/tcp.h"
#include "wire/error.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#define OP_INDEX_BITS 20
#define OPS_MAX       (1u << OP_INDEX_BITS)
#define MEMFD_MIN     (128u << 10) /* a payload of this size that finds no arena block now travels as a memfd */

/* Why the last leat_*_new() of this thread failed: there is no client yet to hold it. */
static _Thread_local char orphan_text[CLIENT_ERROR_MAX];

/* ---- errors -------------------------------------------------------------------------------------------------------- */

int client_fail(leat_client *c, int error, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->error_text, sizeof c->error_text, fmt, ap);
    va_end(ap);
    c->kafka_error = 0;
    return error;
}

int client_fail_kafka(leat_client *c, int16_t kafka_error, const char *what)
{
    int error = error_from_kafka(kafka_error);
    client_fail(c, error, "%s: %s (%s)", what, k_error_message(kafka_error), k_error_name(kafka_error));
    c->kafka_error = kafka_error;
    return error;
}

PUBLIC const char *leat_error_text(const leat_client *client)
{
    return client ? client->error_text : orphan_text;
}

PUBLIC int16_t leat_kafka_error(const leat_client *client)
{
    return client ? client->kafka_error : 0;
}

/* ---- ops ----------------------------------------------------------------------------------------------------------- */

static int ops_grow(leat_client *c)
{
    uint32_t n = c->n_ops ? c->n_ops * 2 : 64;
    if (n > OPS_MAX)
        return -EAGAIN;
    Op *ops = reallocarray(c->ops, n, sizeof *ops);
    if (!ops)
        return -ENOMEM;
    c->ops = ops;
    for (uint32_t i = n; i-- > c->n_ops;) {
        ops[i] = (Op){.next_free = c->free_op};
        c->free_op = i + 1;
    }
    c->n_ops = n;
    return 0;
}

void client_op_free(leat_client *c, Op *op)
{
    assert(op->kind != OP_FREE);
    if (op->block && c->fab)
        fab_arena_free(c->fab, op->block);
    *op = (Op){.next_free = c->free_op};
    c->free_op = (uint32_t)(op - c->ops) + 1;
}

Op *client_find_op(leat_client *c, uint64_t id)
{
    uint64_t index = id & (OPS_MAX - 1);
    if (index >= c->n_ops || c->ops[index].kind == OP_FREE || c->ops[index].id != id)
        return NULL;
    return &c->ops[index];
}

/* Takes a slot and gives the descriptor its id; nothing is kept unless op_keep() follows. */
static int op_reserve(leat_client *c, FabSqe *sqe, Op **ret)
{
    if (!c->fab || c->broken)
        return -ENOTCONN;
    if (!c->free_op) {
        int r = ops_grow(c);
        if (r < 0)
            return r;
    }
    uint32_t index = c->free_op - 1;
    sqe->user_data = ++c->op_serial << OP_INDEX_BITS | index;
    *ret = &c->ops[index];
    return 0;
}

static int op_keep(leat_client *c, Op *op, OpKind kind, void *owner, uint64_t id, Op **ret_op)
{
    c->free_op = op->next_free;
    *op = (Op){.id = id, .kind = kind, .owner = owner};
    c->ring = true;
    if (ret_op)
        *ret_op = op;
    return 0;
}

static int submit_failed(leat_client *c, int r)
{
    if (r == -ECONNRESET)
        c->broken = true;
    return r == -ECONNRESET || r == -ECHILD ? -ENOTCONN : r;
}

int client_submit(leat_client *c, OpKind kind, void *owner, FabSqe *sqe, Op **ret_op)
{
    Op *op;
    int r = op_reserve(c, sqe, &op);
    if (r < 0)
        return r;
    r = fab_client_submit(c->fab, sqe);
    return r < 0 ? submit_failed(c, r) : op_keep(c, op, kind, owner, sqe->user_data, ret_op);
}

int client_submit_copy(leat_client *c, OpKind kind, void *owner, FabSqe *sqe, const void *payload, size_t size, Op **ret_op)
{
    Op *op;
    int r = op_reserve(c, sqe, &op);
    if (r < 0)
        return r;
    if (size > FAB_BATCH_MAX)
        return -EMSGSIZE;
    void *block = size <= fab_arena_block_max(c->fab) ? fab_arena_alloc(c->fab, (uint32_t)MAX(size, 1)) : NULL;
    if (block) {
        memcpy(block, payload, size);
        sqe->len = (uint32_t)size;
        sqe->off = fab_arena_offset(c->fab, block);
        r = fab_client_submit_block(c->fab, sqe, block);
        if (r < 0)
            fab_arena_free(c->fab, block);
    } else {
        r = size < MEMFD_MIN ? -EAGAIN : fab_client_submit_memfd(c->fab, sqe, payload, size);
    }
    return r < 0 ? submit_failed(c, r) : op_keep(c, op, kind, owner, sqe->user_data, ret_op);
}

int client_submit_again(leat_client *c, const Op *op, FabSqe *sqe)
{
    if (!c->fab || c->broken)
        return -ENOTCONN;
    sqe->user_data = op->id;
    int r = fab_client_submit(c->fab, sqe);
    c->ring = true;
    return r < 0 ? submit_failed(c, r) : 0;
}

/* ---- frames -------------------------------------------------------------------------------------------------------- */

void *client_ring_grow(void *items, size_t item_size, size_t least, uint64_t first, uint64_t end, uint64_t *inout_mask)
{
    uint64_t mask = items ? 2 * *inout_mask + 1 : least - 1;
    char *grown = calloc(mask + 1, item_size);
    if (!grown)
        return NULL;
    for (uint64_t i = first; i < end; i++)
        memcpy(grown + (i & mask) * item_size, (char *)items + (i & *inout_mask) * item_size, item_size);
    free(items);
    *inout_mask = mask;
    return grown;
}

static bool held_has_room(leat_client *c)
{
    if (c->held && c->held_end - c->held_first <= c->held_mask)
        return true;
    HeldFrame *grown = client_ring_grow(c->held, sizeof *grown, 256, c->held_first, c->held_end, &c->held_mask);
    if (grown)
        c->held = grown;
    return grown != NULL;
}

void client_let_go(leat_client *c, uint64_t held)
{
    if (held < c->held_first)
        return; /* of a session that died */
    assert(held < c->held_end);
    c->held[held & c->held_mask].done = true;
    uint64_t release_at = 0;
    bool any = false;
    while (c->held_first < c->held_end && c->held[c->held_first & c->held_mask].done) {
        release_at = c->held[c->held_first++ & c->held_mask].release_at;
        any = true;
    }
    if (any && c->fab) {
        fab_client_release(c->fab, release_at);
        c->ring = true; /* the broker may be waiting for room */
    }
}

static void frame_dispatch(leat_client *c, FabDelivery *d)
{
    uint64_t held = c->held_end++;
    c->held[held & c->held_mask] = (HeldFrame){.release_at = d->release_at};
    bool keep = false;

    switch (d->frame.type) {
    case FAB_FRAME_RESPONSE: {
        Op *op = client_find_op(c, d->frame.tag);
        if (op && op->kind == OP_REQUEST) {
            request_answer(c, op, d->frame.kafka_error, d->payload, d->frame.size);
            op = client_find_op(c, d->frame.tag); /* the callback may have grown the table */
            if (op)
                client_op_free(c, op);
        }
        break;
    }
    case FAB_FRAME_BATCHES:
    case FAB_FRAME_POSITION:
    case FAB_FRAME_ERROR:
        keep = consumers_take(c, d, held);
        break;
    case FAB_FRAME_NOTIFY:
        consumers_notify(c, d->frame.inner_type, d->payload, d->frame.size);
        break;
    case FAB_FRAME_LEASE: {
        Op *op = client_find_op(c, d->frame.tag);
        if (op && op->kind == OP_LEASE)
            lease_granted(c, op, d);
        break;
    }
    default: /* PAD, EXCHANGE and MEMFD are the session's own business; the rest does not concern a client */
        break;
    }
    for (size_t i = 0; d->frame.type == FAB_FRAME_LEASE && i < ARRAY_SIZE(d->fds); i++)
        if (d->fds[i] >= 0)
            close(d->fds[i]); /* what nobody took */
    if (!keep)
        client_let_go(c, held);
}

/* Return: whether anything came. */
static bool take_frames(leat_client *c)
{
    FabDelivery d;
    bool any = false;

    while (c->fab && !c->broken && held_has_room(c) && fab_client_next(c->fab, &d)) {
        frame_dispatch(c, &d);
        any = true;
    }
    return any;
}

static void completion_dispatch(leat_client *c, const FabCqe *cqe)
{
    Op *op = client_find_op(c, cqe->user_data);
    if (!op)
        return;
    if (cqe->kind == FAB_CQE_CONSUMED && op->block) { /* of a batch that nobody waits for any more */
        fab_arena_free(c->fab, op->block);
        op->block = NULL;
    }
    void *owner = op->owner;
    switch (op->kind) {
    case OP_PRODUCE:
        if (cqe->kind == FAB_CQE_CONSUMED && !op->ends_when_consumed)
            return; /* ACKED follows */
        client_op_free(c, op);
        if (owner)
            producer_completed(owner, cqe);
        break;
    case OP_REQUEST: /* answered by a frame, never by a completion */
        break;
    case OP_OPEN:
        client_op_free(c, op);
        if (owner)
            topic_opened(owner, cqe);
        break;
    case OP_SUBSCRIBE: {
        uint32_t generation = op->generation;
        client_op_free(c, op);
        if (owner && cqe->kafka_error != K_NONE)
            consumer_subscription_failed(owner, generation, cqe->kafka_error);
        break;
    }
    case OP_UNSUBSCRIBE:
    case OP_LEASE: /* released */
        client_op_free(c, op);
        break;
    case OP_FREE:
    default:
        assert(false);
    }
}

static bool take_completions(leat_client *c)
{
    FabCqe cqe;
    bool any = false;

    while (c->fab && !c->broken && fab_client_reap(c->fab, &cqe)) {
        completion_dispatch(c, &cqe);
        any = true;
    }
    return any;
}

void client_reap(leat_client *c)
{
    if (take_completions(c))
        client_doorbell(c);
}

void client_doorbell(leat_client *c)
{
    if (c->ring && c->fab)
        fab_client_flush(c->fab);
    c->ring = false;
}

/* ---- up and down --------------------------------------------------------------------------------------------------- */

bool client_is_borrowing(const leat_client *c)
{
    list_for_each(it, &c->consumers)
        if (consumer_is_borrowing(consumer_of_node(it)))
            return true;
    return false;
}

void client_bury(leat_client *c)
{
    if (c->n_old == 0 || client_is_borrowing(c))
        return;
    for (size_t i = 0; i < c->n_old; i++)
        fab_client_free(c->old[i]);
    c->n_old = 0;
}

static void client_down(leat_client *c)
{
    FabClient *dead = TAKE(c->fab);
    epoll_ctl(c->epoll_fd, EPOLL_CTL_DEL, fab_client_fd(dead), NULL);
    c->broken = c->ring = false;
    c->down_since_ns = c->reconnect_at_ns = clock_mono_ns(); /* the first attempt at once */
    if (!c->versions_fault[0]) /* a broker of another release says the same again: that is no new trouble */
        c->backoff_ms = c->settings.reconnect_backoff_ms;
    for (uint32_t i = 0; i < c->n_ops; i++)
        if (c->ops[i].kind != OP_FREE) {
            c->ops[i].block = NULL; /* died with its arena */
            client_op_free(c, &c->ops[i]);
        }
    c->held_first = c->held_end;
    topics_down(c);
    list_for_each(it, &c->producers)
        producer_down(producer_of_node(it));
    list_for_each(it, &c->consumers)
        consumer_down(consumer_of_node(it));
    requests_down(c);
    if (client_is_borrowing(c) && c->n_old < CLIENT_OLD_MAX)
        c->old[c->n_old++] = dead;
    else if (!client_is_borrowing(c))
        fab_client_free(dead);
    /* else: leaked on purpose; only a program that lives through eight broker restarts inside one poll gets here */
}

static FabClientOptions connect_options(const leat_client *c)
{
    return (FabClientOptions){
        .socket_path = settings_socket_path(&c->settings),
        .role = FAB_ROLE_CLIENT,
        .client_id = c->settings.client_id,
        .arena_size = (uint32_t)c->settings.arena_bytes,
        .delivery_size = (uint32_t)c->settings.delivery_bytes,
        .timeout_ms = MIN(c->settings.request_timeout_ms, c->settings.connect_timeout_ms),
    };
}

static int connect_failed(leat_client *c, int error, const char *why)
{
    return client_fail(c, error, "%s: %s", settings_socket_path(&c->settings), why[0] ? why : leat_strerror(error));
}

static int watch(leat_client *c, int fd)
{
    struct epoll_event ev = {.events = EPOLLIN};
    return epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

static int client_up(leat_client *c, FabClient *fab)
{
    int r = watch(c, fab_client_fd(fab));
    if (r < 0) {
        fab_client_free(fab);
        return connect_failed(c, r, "");
    }
    c->fab = fab;
    c->sessions++;
    c->broken = false;
    c->topics_unopened = c->n_topics;
    versions_ask(c);
    list_for_each(it, &c->consumers)
        consumer_up(consumer_of_node(it));
    return 0;
}

static int client_connect(leat_client *c)
{
    char why[256] = "";
    FabClientOptions o = connect_options(c);
    FabClient *fab = NULL;
    int r = fab_client_new(&o, &fab, why, sizeof why);
    if (r < 0)
        return connect_failed(c, r, why);
    r = client_up(c, fab);
    if (r == 0)
        r = client_run_until(c, versions_are_known, c, clock_mono_ns() + o.timeout_ms * NS_PER_MS);
    if (c->versions_fault[0])
        return connect_failed(c, -EPROTONOSUPPORT, c->versions_fault);
    return r == -ETIMEDOUT ? connect_failed(c, r, "the broker does not answer") : r;
}

static void reconnect_later(leat_client *c, int error, const char *why)
{
    connect_failed(c, error, why);
    c->reconnect_at_ns = clock_mono_ns() + c->backoff_ms * NS_PER_MS;
    c->backoff_ms = MIN(c->backoff_ms * 2, c->settings.reconnect_backoff_max_ms);
}

/* The supervisor holds the socket while a broker restarts, so the answer to HELLO may take a while: it is awaited, not asked
 * for again. */
static void reconnect_step(leat_client *c, int64_t now_ns)
{
    char why[256] = "";

    if (!c->joining) {
        FabClientOptions o = connect_options(c);
        if (now_ns < c->reconnect_at_ns)
            return;
        int r = fab_client_begin(&o, &c->joining);
        if (r == 0 && (r = watch(c, fab_client_socket(c->joining))) < 0)
            c->joining = fab_client_free(c->joining);
        if (r < 0) {
            reconnect_later(c, r, why);
            return;
        }
    }
    int r = fab_client_finish(c->joining, why, sizeof why);
    if (r == -EAGAIN)
        return;
    FabClient *fab = TAKE(c->joining);
    epoll_ctl(c->epoll_fd, EPOLL_CTL_DEL, fab_client_socket(fab), NULL);
    if (r == 0)
        r = client_up(c, fab);
    else
        fab_client_free(fab);
    if (r < 0)
        reconnect_later(c, r, why);
}

/* ---- turns --------------------------------------------------------------------------------------------------------- */

int client_turn(leat_client *c)
{
    int r = client_check(c);
    if (r < 0)
        return r;
    if (c->tcp)
        return tcp_turn(c);
    bool nested = c->in_turn; /* a call of the program from inside its rebalance callback */
    c->in_turn = true;
    bool any = take_completions(c);
    any |= take_frames(c);
    if (!any && c->fab && !c->broken && fab_client_process(c->fab) == -ECONNRESET)
        c->broken = true;
    if (c->broken) {
        take_frames(c); /* what had arrived before it died still counts */
        client_down(c);
        if (c->versions_fault[0])
            reconnect_later(c, -EPROTONOSUPPORT, c->versions_fault);
    }
    int64_t now_ns = clock_mono_ns();
    if (!c->fab)
        reconnect_step(c, now_ns);
    requests_turn(c, now_ns);
    topics_turn(c, now_ns);
    list_for_each(it, &c->producers)
        producer_turn(producer_of_node(it), now_ns);
    list_for_each(it, &c->consumers)
        consumer_turn(consumer_of_node(it), now_ns, nested);
    client_doorbell(c);
    c->in_turn = nested;
    return 0;
}

void client_turn_quietly(leat_client *c)
{
    bool was = c->in_turn;
    c->in_turn = true;
    client_turn(c);
    c->in_turn = was;
}

int64_t client_deadline_ns(leat_client *c)
{
    int64_t at = c->broken ? 0 : INT64_MAX;

    if (!c->fab && !c->joining)
        at = MIN(at, c->reconnect_at_ns);
    at = MIN(at, requests_deadline_ns(c));
    at = MIN(at, topics_deadline_ns(c));
    list_for_each(it, &c->producers)
        at = MIN(at, producer_deadline_ns(producer_of_node(it)));
    list_for_each(it, &c->consumers)
        at = MIN(at, consumer_deadline_ns(consumer_of_node(it)));
    return at;
}

int client_sleep(leat_client *c, int64_t deadline_ns)
{
    int64_t wait_ns = MIN(deadline_ns, client_deadline_ns(c)) - clock_mono_ns();
    if (wait_ns <= 0)
        return 0;
    if (c->fab) {
        int r = fab_client_wait(c->fab, wait_ns >= INT64_MAX / 2 ? -1 : wait_ns);
        if (r == -ECONNRESET)
            c->broken = true;
        return r == -EINTR ? r : 0;
    }
    struct timespec t = {.tv_sec = wait_ns / NS_PER_S, .tv_nsec = wait_ns % NS_PER_S};
    struct pollfd p = {.fd = c->joining ? fab_client_socket(c->joining) : -1, .events = POLLIN};
    return ppoll(&p, 1, &t, NULL) < 0 && errno == EINTR ? -EINTR : 0;
}

bool client_back_off(leat_client *c, int64_t deadline_ns)
{
    int64_t now_ns = clock_mono_ns();
    if (now_ns >= deadline_ns)
        return false;
    client_sleep(c, MIN(deadline_ns, now_ns + c->settings.retry_backoff_ms * NS_PER_MS));
    return true;
}

int client_run_until(leat_client *c, ClientDoneFn done, void *userdata, int64_t deadline_ns)
{
    for (int64_t turns = 0;; turns++) {
        int r = client_turn(c);
        if (r < 0)
            return r;
        if (done(userdata))
            return 0;
        int64_t now_ns = clock_mono_ns();
        if (now_ns >= deadline_ns)
            return -ETIMEDOUT;
        /* An answer may be stuck behind batches that nobody polls now: make room. */
        if (turns > 0)
            list_for_each(it, &c->consumers)
                consumer_spill(consumer_of_node(it));
        client_sleep(c, turns == 0 ? MIN(deadline_ns, now_ns + 2 * NS_PER_MS) : deadline_ns);
    }
}

/* ---- public -------------------------------------------------------------------------------------------------------- */

static int fork_guard_new(const uint8_t **ret)
{
    long page = sysconf(_SC_PAGESIZE);
    uint8_t *p = mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return -ENOMEM;
    *p = 1;
    if (madvise(p, (size_t)page, MADV_WIPEONFORK) < 0 || mprotect(p, (size_t)page, PROT_READ) < 0) {
        int r = -errno;
        munmap(p, (size_t)page);
        return r;
    }
    *ret = p;
    return 0;
}

void client_orphan(const leat_client *c)
{
    snprintf(orphan_text, sizeof orphan_text, "%s", c->error_text);
}

static int orphan(int error, const char *text)
{
    snprintf(orphan_text, sizeof orphan_text, "%s", text);
    return error;
}

/* Without client.id the program's name stands in logs, member ids and `mqctl group describe`. */
static int name_client(leat_client *c)
{
    if (c->settings.client_id[0])
        return 0;
    char *name = strdup(program_invocation_short_name);
    if (!name)
        return -ENOMEM;
    free(c->settings.client_id);
    c->settings.client_id = name;
    return 0;
}

PUBLIC int leat_client_new(const leat_conf *conf, leat_client **ret)
{
    if (!ret)
        return -EINVAL;
    leat_client *c = calloc(1, sizeof *c);
    if (!c)
        return orphan(-ENOMEM, "out of memory");
    list_init(&c->requests);
    list_init(&c->producers);
    list_init(&c->consumers);
    c->epoll_fd = -1;
    c->metadata_due_ns = INT64_MAX;
    int r = settings_load(conf, &c->settings);
    if (r == 0)
        r = name_client(c);
    if (r == 0)
        r = fork_guard_new(&c->alive);
    if (r < 0)
        client_fail(c, r, "%s", leat_strerror(r));
    else if (!settings_name_a_broker(&c->settings))
        r = client_fail(c, -EINVAL, "bootstrap.servers '%s' names no broker: unix:/path/of/client.sock, or host:port",
                        c->settings.bootstrap_servers);
    if (r == 0 && !settings_socket_path(&c->settings)) {
        r = tcp_client_new(c, conf);
    } else if (r == 0) {
        c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        r = c->epoll_fd < 0 ? -errno : client_connect(c);
    }
    if (r < 0) {
        orphan(r, c->error_text);
        leat_client_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

PUBLIC leat_client *leat_client_free(leat_client *client)
{
    if (!client)
        return NULL;
    bool here = !client->alive || *client->alive;
    if (here) {
        assert(list_is_empty(&client->producers) && list_is_empty(&client->consumers));
        requests_down(client);
        while (!list_is_empty(&client->requests))
            request_cancel((Request *)(void *)client->requests.next);
    }
    tcp_client_free(client);
    topics_free(client);
    fab_client_free(client->fab);
    fab_client_free(client->joining);
    for (size_t i = 0; i < client->n_old; i++)
        fab_client_free(client->old[i]);
    if (client->epoll_fd >= 0)
        close(client->epoll_fd);
    if (client->alive)
        munmap((void *)(uintptr_t)client->alive, (size_t)sysconf(_SC_PAGESIZE));
    settings_deinit(&client->settings);
    free(client->ops);
    free(client->held);
    free(client->by_handle);
    free(client);
    return NULL;
}

PUBLIC int leat_fd(const leat_client *client)
{
    int r = client_check(client);
    return r < 0 ? r : client->epoll_fd;
}

PUBLIC int leat_events(const leat_client *client)
{
    int r = client_check(client);
    return r < 0 ? r : POLLIN;
}

PUBLIC int leat_process(leat_client *client)
{
    return client_turn(client);
}

static bool records_are_waiting(const leat_client *c)
{
    list_for_each(it, &c->consumers)
        if (consumer_has_records(consumer_of_node(it)))
            return true;
    return false;
}

PUBLIC int64_t leat_timeout(leat_client *client)
{
    int r = client_check(client);
    if (r < 0)
        return r;
    if (records_are_waiting(client))
        return 0;
    if (client->tcp)
        return -1; /* queues signal the fd */
    int64_t at = client_deadline_ns(client);
    int64_t left_ns = at == INT64_MAX ? INT64_MAX : at - clock_mono_ns();
    if (left_ns <= 0 || (client->fab && !fab_client_arm(client->fab)))
        return 0;
    return left_ns == INT64_MAX ? -1 : (left_ns + NS_PER_MS - 1) / NS_PER_MS;
}

PUBLIC int leat_wait(leat_client *client, int64_t timeout_ms)
{
    int r = client_turn(client);
    if (r < 0 || timeout_ms == 0 || records_are_waiting(client))
        return r;
    int64_t deadline_ns = timeout_ms < 0 ? INT64_MAX : clock_mono_ns() + timeout_ms * NS_PER_MS;
    r = client->tcp ? tcp_sleep(client, timeout_ms) : client_sleep(client, deadline_ns);
    return r < 0 ? 0 : client_turn(client);
}

PUBLIC bool leat_is_connected(const leat_client *client)
{
    return client_check(client) == 0 && (client->tcp ? tcp_is_connected(client) : client->fab && !client->broken);
}
