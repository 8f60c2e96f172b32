/*
 * The broker's side: limits, the round over active sessions, death. How a connection becomes a session is fab_handshake.c.
 *
 * A session lives until it is doomed. Dooming takes it out of every list at once but keeps its memory until the end of the
 * turn, so callers up the stack may go on using it.
 *
 * Death is seen by pidfd (a forked child may keep the socket open) and by hang-up (the process may have handed the socket
 * on), whichever comes first. What a dead client had published before is taken all the same: those batches are whole.
 *
 * A turn: handlers note doorbells (session becomes active), the turn_end hook scans every active session once and rings the
 * doorbells of those that got something. Before the loop sleeps all active sessions are armed, one full fence taken, and
 * each looked at once more (INV-FAB-1, fab_session.c).
 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "shm/fab_memfd.h"
#include "shm/fab_server_private.h"

#define HELLO_TIMEOUT_MS 5000

/* ---- limits ---- */

bool fab_server_charge(FabSession *s, uint64_t bytes)
{
    FabServer *server = s->server;

    if (server->memory > server->o.memory_max || bytes > server->o.memory_max - server->memory)
        return false;
    server->memory += bytes;
    s->memory += bytes;
    return true;
}

void fab_server_discharge(FabSession *s, uint64_t bytes)
{
    assert(bytes <= s->memory && s->memory <= s->server->memory);
    s->memory -= bytes;
    s->server->memory -= bytes;
}

FabUid *fab_uid_get(FabServer *server, uid_t uid)
{
    list_for_each (l, &server->uids) {
        FabUid *u = CONTAINER_OF(l, FabUid, link);
        if (u->uid == uid)
            return u;
    }
    FabUid *u = calloc(1, sizeof(*u));
    if (!u)
        return NULL;
    u->uid = uid;
    list_append(&server->uids, &u->link);
    return u;
}

static void uid_put(FabUid *u)
{
    if (!u || u->n_pending + u->n_sessions > 0)
        return;
    list_remove(&u->link);
    free(u);
}

/* ---- the end of a session ---- */

void fab_session_close(FabSession *s, const char *why)
{
    if (s->doomed)
        return;
    s->doomed = true;
    (void)snprintf(s->why, sizeof(s->why), "%s", why);
    list_remove(&s->active_link);
    list_remove(&s->dirty_link);
    list_remove(&s->link);
    list_append(&s->server->doomed, &s->link);
}

void fab_session_violate(FabSession *s, const char *what)
{
    char why[sizeof(s->why)];

    if (s->doomed)
        return;
    s->violation = true;
    s->server->n_violations++;
    (void)snprintf(why, sizeof(why), "breach of the session protocol: %s", what);
    fab_session_close(s, why);
}

int fab_session_say(FabSession *s, const FabControl *control, const int *fds, size_t n_fds)
{
    return sock_send_fds(s->socket_fd, control, sizeof(*control), fds, n_fds);
}

static void say_goodbye(FabSession *s)
{
    FabControl last = {.magic = FAB_MAGIC,
                       .kind = FAB_CONTROL_CLOSED,
                       .error = s->violation ? -EPROTO : -ESHUTDOWN};

    (void)snprintf(last.why, sizeof(last.why), "%s", s->why);
    (void)fab_session_say(s, &last, NULL, 0); /* the hang-up says it too */
    atomic_store_explicit(&s->out->epoch, 0, memory_order_release);
}

void fab_session_free(FabSession *s)
{
    FabServer *server = s->server;

    list_remove(&s->link);
    s->socket_source = loop_fd_free(s->socket_source);
    s->doorbell_source = loop_fd_free(s->doorbell_source);
    s->pidfd_source = loop_fd_free(s->pidfd_source);
    fab_delivery_deinit(s);
    fab_session_deinit_queues(s);
    if (s->c_map)
        (void)munmap(s->c_map, s->c_reserved);
    if (s->d_map)
        (void)munmap(s->d_map, s->d_reserved);
    base_closep(&s->socket_fd);
    base_closep(&s->doorbell_fd);
    base_closep(&s->wakeup_fd);
    base_closep(&s->peer.pidfd);
    fab_server_discharge(s, s->memory);
    if (s->open) {
        s->uid->n_sessions--;
        server->n_sessions--;
        server->n_clients -= s->role == FAB_ROLE_CLIENT;
    } else if (s->uid) {
        s->uid->n_pending--;
        server->n_handshakes--;
    }
    uid_put(s->uid);
    free(s);
}

static void reap_doomed(FabServer *server)
{
    while (!list_is_empty(&server->doomed)) {
        FabSession *s = CONTAINER_OF(server->doomed.next, FabSession, link);

        if (s->open) {
            server->ops.closed(server->userdata, s, s->why);
            say_goodbye(s);
        }
        fab_session_free(s);
    }
}

void fab_session_gone(FabSession *s, const char *why)
{
    if (s->doomed)
        return;
    if (s->open)
        fab_session_drain(s);
    fab_session_close(s, why);
}

/* ---- the turn ---- */

static void ring_doorbells(FabServer *server)
{
    if (list_is_empty(&server->dirty))
        return;
    /* Between what was published and need_wakeup; pairs with fab_client_arm(). */
    fab_fence();
    for (List *l; (l = list_pop(&server->dirty)) != NULL;)
        fab_session_ring(CONTAINER_OF(l, FabSession, dirty_link));
}

static void on_turn_end(void *userdata)
{
    FabServer *server = userdata;
    List round;

    reap_doomed(server);
    list_init(&round);
    for (List *l; (l = list_pop(&server->active)) != NULL;)
        list_append(&round, l);
    for (List *l; (l = list_pop(&round)) != NULL;) {
        FabSession *s = CONTAINER_OF(l, FabSession, active_link);

        fab_session_scan(s);
        if (s->doomed || !list_is_empty(&s->active_link))
            continue;
        if (s->scans_empty >= FAB_SCANS_EMPTY) {
            fab_session_arm(s);
            fab_fence(); /* pairs with fab_client_flush() */
            if (!fab_session_has_work(s))
                continue; /* cold: its doorbell brings it back */
        }
        list_append(&server->active, &s->active_link);
    }
    reap_doomed(server);
    ring_doorbells(server);
    fab_server_timer_update(server);
}

static bool any_has_work(const FabServer *server)
{
    list_for_each (l, &server->active) {
        if (fab_session_has_work(CONTAINER_OF(l, FabSession, active_link)))
            return true;
    }
    return false;
}

static bool on_before_sleep(void *userdata)
{
    FabServer *server = userdata;
    bool idle = true;

    reap_doomed(server);
    ring_doorbells(server);
    if (list_is_empty(&server->active))
        return true;
    if (any_has_work(server))
        return false;
    list_for_each (l, &server->active)
        fab_session_arm(CONTAINER_OF(l, FabSession, active_link));
    fab_fence(); /* pairs with fab_client_flush() */
    list_for_each_safe (l, &server->active) {
        if (fab_session_has_work(CONTAINER_OF(l, FabSession, active_link)))
            idle = false;
        else
            list_remove(l);
    }
    return idle;
}

/* ---- public ---- */

int fab_server_new(
    Loop *loop, const FabServerOptions *o, const FabServerOps *ops, void *userdata, FabServer **ret)
{
    FabServer *server = calloc(1, sizeof(*server));
    if (!server)
        return -ENOMEM;
    *server =
        (FabServer){.loop = loop, .o = *o, .ops = *ops, .userdata = userdata, .accepting = true};
    list_init(&server->handshakes);
    list_init(&server->sessions);
    list_init(&server->doomed);
    list_init(&server->active);
    list_init(&server->dirty);
    list_init(&server->uids);
    if (server->o.hello_timeout_ms <= 0)
        server->o.hello_timeout_ms = HELLO_TIMEOUT_MS;
    size_t page = fab_page_size();
    server->arena_offset = align_up(FAB_PAGE + FAB_SQ_ENTRIES_DEFAULT * sizeof(FabSqe), page);
    server->delivery_offset = align_up(FAB_PAGE + FAB_CQ_ENTRIES_DEFAULT * sizeof(FabCqe), page);

    int r = loop_add_timer(loop, fab_server_on_timer, server, &server->timer);
    if (r == 0)
        r = loop_add_fd(loop, o->listen_fd, EPOLLIN, fab_server_on_listen, server, &server->listen_source);
    if (r == 0)
        r = loop_add_turn_end(loop, on_turn_end, server);
    if (r == 0)
        r = loop_add_before_sleep(loop, on_before_sleep, server);
    if (r < 0) {
        fab_server_free(server);
        return r;
    }
    *ret = server;
    return 0;
}

FabServer *fab_server_free(FabServer *server)
{
    if (!server)
        return NULL;
    List *lists[] = {&server->sessions, &server->handshakes};
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
        while (!list_is_empty(lists[i]))
            fab_session_close(CONTAINER_OF(lists[i]->next, FabSession, link), "the broker stops");
    reap_doomed(server);
    assert(server->memory == 0 && server->n_sessions == 0 && server->n_handshakes == 0);
    assert(list_is_empty(&server->uids));
    loop_fd_free(server->listen_source);
    loop_timer_free(server->timer);
    free(server);
    return NULL;
}

void fab_server_stop_accepting(FabServer *server)
{
    server->draining = true;
}

size_t fab_server_sessions(const FabServer *server)
{
    return server->n_sessions;
}

uint64_t fab_server_memory(const FabServer *server)
{
    return server->memory;
}

uint64_t fab_server_violations(const FabServer *server)
{
    return server->n_violations;
}

uint64_t fab_session_id(const FabSession *s)
{
    return s->id;
}

FabRole fab_session_role(const FabSession *s)
{
    return s->role;
}

const PeerCred *fab_session_peer(const FabSession *s)
{
    return &s->peer;
}

const char *fab_session_client_id(const FabSession *s)
{
    return s->client_id;
}

void *fab_session_userdata(const FabSession *s)
{
    return s->userdata;
}

void fab_session_set_userdata(FabSession *s, void *userdata)
{
    s->userdata = userdata;
}

uint64_t fab_session_progress(const FabSession *s)
{
    return atomic_load_explicit(&s->in->progress, memory_order_relaxed);
}
