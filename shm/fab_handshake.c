/*
 * From a connection to a session: accepting, HELLO, the answer with its memory and doorbells.
 *
 * A connection is a handshake until its HELLO has been answered, bounded in number and time; the oldest gives way to a new
 * one, so silence cannot keep others out. A refusal is a sentence with the way out.
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
#include "base/fs.h"
#include "shm/fab_memfd.h"
#include "shm/fab_server_private.h"

#define ACCEPT_PAUSE_NS (100 * NS_PER_MS) /* after running out of descriptors */

/* ---- HELLO ---- */

static void refuse(FabSession *s, int error, const char *fmt, ...) PRINTF_LIKE(3, 4);

static void refuse(FabSession *s, int error, const char *fmt, ...)
{
    FabRefusal refusal = {.magic = FAB_MAGIC, .error = error};
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(refusal.why, sizeof(refusal.why), fmt, args);
    va_end(args);
    (void)sock_send_fds(s->socket_fd, &refusal, sizeof(refusal), NULL, 0);
    fab_session_close(s, refusal.why);
}

static bool hello_is_spoken(FabSession *s, const FabHello *hello)
{
    if (hello->magic != FAB_MAGIC)
        refuse(
            s, -EPROTO,
            "this socket speaks the session protocol of Leat; use libleat, or Kafka's protocol on TCP");
    else if (hello->abi_major != FAB_ABI_MAJOR)
        refuse(
            s, -EPROTONOSUPPORT,
            "the library speaks session protocol %u, the broker %u; install the same release of both",
            (unsigned)hello->abi_major, (unsigned)FAB_ABI_MAJOR);
    else if (hello->features != 0)
        refuse(
            s, -EOPNOTSUPP,
            "the library asks for features 0x%x that this broker lacks; install the same release of both",
            hello->features);
    else if (hello->role >= FAB_ROLE_COUNT)
        refuse(s, -EINVAL, "unknown role %u", hello->role);
    return !s->doomed;
}

static bool hello_is_allowed(FabSession *s, const FabHello *hello)
{
    FabServer *server = s->server;
    char why[sizeof(((FabRefusal *)0)->why)] = "not allowed";

    if (hello->role != FAB_ROLE_CLIENT &&
        memcmp(hello->build_id, server->o.build_id, sizeof(hello->build_id)) != 0) {
        refuse(s, -ESTALE, "this daemon is build %.24s, the broker %.24s: restart the instance",
               hello->build_id, server->o.build_id);
        return false;
    }
    int r = server->ops.authorize(server->userdata, &s->peer, hello, why, sizeof(why));
    if (r < 0) {
        refuse(s, r, "%s", why);
        return false;
    }
    if (hello->role != FAB_ROLE_CLIENT)
        return true;
    if (server->draining)
        refuse(s, -ESHUTDOWN,
               "the broker is draining: no new sessions until `mqctl supervisor undrain`");
    else if (sock_is_in_reserve(s->socket_fd))
        refuse(s, -EMFILE, "the broker has no file descriptors left for sessions; raise LimitNOFILE=");
    else if (server->n_clients >= server->o.sessions_max)
        refuse(s, -EUSERS, "%u sessions are open; raise max.sessions or close some",
               server->n_clients);
    else if (server->o.sessions_per_uid_max > 0 &&
             s->uid->n_sessions >= server->o.sessions_per_uid_max)
        refuse(s, -EUSERS, "uid %u has %u sessions open, as many as one user may have",
               (unsigned)s->uid->uid, s->uid->n_sessions);
    return !s->doomed;
}

static uint64_t power_of_two_at_least(uint64_t n)
{
    uint64_t p = 1;
    while (p < n)
        p <<= 1;
    return p;
}

static void choose_sizes(FabSession *s, const FabHello *hello)
{
    uint64_t arena = hello->arena_size ? hello->arena_size : FAB_ARENA_DEFAULT;
    uint64_t ring = hello->delivery_size ? hello->delivery_size : FAB_DELIVERY_DEFAULT;

    arena =
        MIN(MAX(align_up(arena, fab_page_size()), (uint64_t)FAB_RING_MIN), (uint64_t)FAB_ARENA_MAX);
    ring =
        MIN(MAX(power_of_two_at_least(ring), (uint64_t)FAB_RING_MIN), (uint64_t)FAB_DELIVERY_MAX);
    s->arena_size = arena;
    s->arena_limit = MAX(arena, (uint64_t)FAB_GROWTH_MAX);
    s->ring.size = ring;
    s->ring_limit = MAX(ring, (uint64_t)FAB_GROWTH_MAX);
}

/* C has no page until its client touches one; that memory is the client's, in its own control group. */
static int make_c(FabSession *s, int *ret_fd)
{
    FabServer *server = s->server;
    uint64_t size = server->arena_offset + s->arena_size;
    _cleanup_(base_closep) int fd = fab_memfd_new("leat-c", size, false);
    if (fd < 0)
        return fd;
    s->c_reserved = server->arena_offset + s->arena_limit;
    s->c_map = fab_map_reserve(s->c_reserved);
    if (!s->c_map)
        return -ENOMEM;
    int r = fab_map_at(s->c_map, size, PROT_READ, fd, 0);
    if (r == 0)
        r = fab_memfd_seal(fd, FAB_SEALS_C);
    if (r < 0)
        return r;
    s->in = (const FabClientPage *)(const void *)s->c_map;
    s->sq = s->c_map + FAB_PAGE;
    s->arena = s->c_map + server->arena_offset;
    *ret_fd = fd;
    fd = -1;
    return 0;
}

/* D is allocated whole: a write of ours must never find memory missing. Sealed after our writable map exists. */
static int make_d(FabSession *s, int *ret_fd)
{
    FabServer *server = s->server;
    uint64_t size = server->delivery_offset + s->ring.size;
    _cleanup_(base_closep) int fd = fab_memfd_new("leat-d", size, true);
    if (fd < 0)
        return fd;
    s->d_reserved = size + s->ring.size;
    s->d_map = fab_map_reserve(s->d_reserved);
    if (!s->d_map)
        return -ENOMEM;
    int r = fab_map_at(s->d_map, size, PROT_READ | PROT_WRITE, fd, 0);
    if (r == 0)
        r = fab_map_at(s->d_map + size, s->ring.size, PROT_READ | PROT_WRITE, fd,
                       server->delivery_offset);
    if (r == 0)
        r = fab_memfd_seal(fd, FAB_SEALS_D);
    if (r < 0)
        return r;
    if (server->o.lock_memory)
        (void)mlock(s->d_map, size); /* when allowed: RLIMIT_MEMLOCK is the operator's choice */
    s->out = (FabBrokerPage *)(void *)s->d_map;
    s->cq = s->d_map + FAB_PAGE;
    s->ring.data = s->d_map + server->delivery_offset;
    atomic_store_explicit(&s->out->want_consumed, UINT64_MAX, memory_order_relaxed);
    atomic_store_explicit(&s->out->want_cq_head, UINT64_MAX, memory_order_relaxed);
    atomic_store_explicit(&s->out->epoch, server->o.broker_epoch, memory_order_release);
    *ret_fd = fd;
    fd = -1;
    return 0;
}

static void on_pidfd(void *userdata, uint32_t events UNUSED)
{
    fab_session_gone(userdata, "the process ended");
}

/*
 * The client gets an epoll set around our eventfd, never the eventfd: whoever holds that could clear O_NONBLOCK, fill the
 * counter, and block our next write. The other direction is an eventfd that we neither read nor write.
 */
static int make_doorbells(FabSession *s, int *ret_epoll_fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};

    s->wakeup_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->doorbell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->wakeup_fd < 0 || s->doorbell_fd < 0)
        return -errno;
    _cleanup_(base_closep) int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, s->wakeup_fd, &event) < 0)
        return -errno;
    int r = loop_add_fd(s->server->loop, s->doorbell_fd, EPOLLIN | EPOLLET, fab_session_on_doorbell,
                        s, &s->doorbell_source);
    if (r == 0 && s->peer.pidfd >= 0)
        r = loop_add_fd(s->server->loop, s->peer.pidfd, EPOLLIN, on_pidfd, s, &s->pidfd_source);
    if (r < 0)
        return r;
    *ret_epoll_fd = epoll_fd;
    epoll_fd = -1;
    return 0;
}

static int send_welcome(FabSession *s, const int fds[FAB_WELCOME_FDS])
{
    FabServer *server = s->server;
    FabWelcome welcome = {
        .magic = FAB_MAGIC,
        .abi_major = FAB_ABI_MAJOR,
        .abi_minor = FAB_ABI_MINOR,
        .session_id = s->id,
        .broker_epoch = server->o.broker_epoch,
        .node_id = server->o.node_id,
        .sq_entries = FAB_SQ_ENTRIES_DEFAULT,
        .cq_entries = FAB_CQ_ENTRIES_DEFAULT,
        .arena_size = (uint32_t)s->arena_size,
        .delivery_size = (uint32_t)s->ring.size,
        .arena_offset = (uint32_t)server->arena_offset,
        .delivery_offset = (uint32_t)server->delivery_offset,
        .message_max_bytes = server->o.message_max_bytes,
    };

    memcpy(welcome.cluster_id, server->o.cluster_id, sizeof(welcome.cluster_id));
    return sock_send_fds(s->socket_fd, &welcome, sizeof(welcome), fds, FAB_WELCOME_FDS);
}

static int make_session(FabSession *s)
{
    _cleanup_(base_closep) int c = -1;
    _cleanup_(base_closep) int d = -1;
    _cleanup_(base_closep) int epoll_fd = -1;

    int r = make_c(s, &c);
    if (r == 0)
        r = make_d(s, &d);
    if (r == 0)
        r = make_doorbells(s, &epoll_fd);
    if (r < 0)
        return r;
    const int fds[FAB_WELCOME_FDS] = {
        [FAB_FD_C] = c,
        [FAB_FD_D] = d,
        [FAB_FD_WAKEUP] = epoll_fd,
        [FAB_FD_DOORBELL] = s->doorbell_fd,
    };
    return send_welcome(s, fds);
}

static void copy_client_id(FabSession *s, const FabHello *hello)
{
    size_t n = strnlen(hello->client_id, sizeof(hello->client_id) - 1);

    for (size_t i = 0; i < n; i++) { /* it goes into logs and tables */
        char c = hello->client_id[i];
        s->client_id[i] = c < 0x20 || c == 0x7f ? '?' : c;
    }
    s->client_id[n] = '\0';
}

static void open_session(FabSession *s, const FabHello *hello)
{
    FabServer *server = s->server;

    choose_sizes(s, hello);
    uint64_t bytes = server->arena_offset + s->arena_size + server->delivery_offset + s->ring.size;
    if (!fab_server_charge(s, bytes)) {
        refuse(
            s, -ENOBUFS,
            "%llu bytes for this session would pass session.memory.max = %llu; raise it or close sessions",
            (unsigned long long)bytes, (unsigned long long)server->o.memory_max);
        return;
    }
    s->role = (FabRole)hello->role;
    s->id = ++server->next_id;
    copy_client_id(s, hello);
    int r = make_session(s);
    if (r < 0) {
        refuse(s, r, "the broker could not make the session: %s", strerror(-r));
        return;
    }
    s->open = true;
    s->uid->n_pending--;
    s->uid->n_sessions++;
    server->n_handshakes--;
    server->n_sessions++;
    server->n_clients += s->role == FAB_ROLE_CLIENT;
    list_remove(&s->link);
    list_append(&server->sessions, &s->link);
    server->ops.opened(server->userdata, s);
    fab_session_activate(s);
}

/* Fds sent along with HELLO never enter this process: recv() without a control buffer drops them in the kernel. */
static void on_hello(FabSession *s)
{
    uint8_t buffer[1024];
    FabHello hello;

    ssize_t n = recv(s->socket_fd, buffer, sizeof(buffer), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        fab_session_close(s, "hung up before HELLO");
        return;
    }
    if (n < (ssize_t)sizeof(hello)) {
        refuse(s, -EPROTO, "HELLO of %zd bytes; this broker expects %zu", n, sizeof(hello));
        return;
    }
    memcpy(&hello, buffer, sizeof(hello)); /* a later minor version may append fields */
    if (hello_is_spoken(s, &hello) && hello_is_allowed(s, &hello))
        open_session(s, &hello);
}

static void on_socket(void *userdata, uint32_t events)
{
    FabSession *s = userdata;

    if (s->doomed)
        return;
    if (!s->open && (events & EPOLLIN))
        on_hello(s);
    if (s->open && (events & EPOLLIN) && fab_session_read_socket(s) < 0)
        events |= EPOLLHUP;
    if (s->doomed)
        return;
    if (events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) {
        fab_session_gone(s, "the client hung up");
        return;
    }
    if ((events & EPOLLOUT) && s->socket_blocked) {
        s->socket_blocked = false;
        fab_session_activate(s);
    }
}

/* ---- accepting ---- */

void fab_server_timer_update(FabServer *server)
{
    int64_t at = server->accepting ? INT64_MAX : server->accept_again_ns;

    if (!list_is_empty(&server->handshakes))
        at = MIN(at, CONTAINER_OF(server->handshakes.next, FabSession, link)->hello_deadline_ns);
    loop_timer_set(server->timer, at);
}

void fab_server_on_timer(void *userdata)
{
    FabServer *server = userdata;
    int64_t now = loop_now_ns(server->loop);

    while (!list_is_empty(&server->handshakes)) {
        FabSession *s = CONTAINER_OF(server->handshakes.next, FabSession, link);
        if (s->hello_deadline_ns > now)
            break;
        fab_session_close(s, "no HELLO in time");
    }
    if (!server->accepting && now >= server->accept_again_ns) {
        server->accepting = true;
        (void)loop_fd_set_events(server->listen_source, EPOLLIN);
    }
    fab_server_timer_update(server);
}

/* Silence must not keep others out: the oldest handshake of the same user, or of all, makes room. */
static void evict(FabServer *server, const FabUid *uid)
{
    bool same_uid = uid->n_pending > FAB_PENDING_PER_UID_MAX;

    if (!same_uid && server->n_handshakes <= FAB_PENDING_MAX)
        return;
    list_for_each (l, &server->handshakes) {
        FabSession *s = CONTAINER_OF(l, FabSession, link);
        if (same_uid && s->uid != uid)
            continue;
        fab_session_close(s, "too many connections without HELLO");
        return;
    }
}

static FabSession *connection_new(FabServer *server, int fd)
{
    FabSession *s = calloc(1, sizeof(*s));
    if (!s) {
        close(fd);
        return NULL;
    }
    *s = (FabSession){
        .server = server, .socket_fd = fd, .doorbell_fd = -1, .wakeup_fd = -1, .peer.pidfd = -1};
    list_init(&s->link);
    list_init(&s->active_link);
    list_init(&s->dirty_link);
    list_init(&s->queue);
    if (sock_peer_cred(fd, &s->peer) < 0 || !(s->uid = fab_uid_get(server, s->peer.uid))) {
        s->uid = NULL;
        fab_session_free(s);
        return NULL;
    }
    s->uid->n_pending++;
    server->n_handshakes++;
    s->hello_deadline_ns = loop_now_ns(server->loop) + server->o.hello_timeout_ms * NS_PER_MS;
    list_append(&server->handshakes, &s->link);
    if (loop_add_fd(server->loop, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, on_socket, s,
                    &s->socket_source) < 0) {
        fab_session_free(s);
        return NULL;
    }
    return s;
}

void fab_server_on_listen(void *userdata, uint32_t events UNUSED)
{
    FabServer *server = userdata;

    for (unsigned n = 0; n < FAB_ACCEPTS_PER_TURN; n++) {
        int fd = accept4(server->o.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && errno == ECONNABORTED)
            continue;
        if (fd < 0 && fs_is_shortage(-errno)) {
            server->accepting = false; /* the backlog waits; a level-triggered fd would spin */
            server->accept_again_ns = loop_now_ns(server->loop) + ACCEPT_PAUSE_NS;
            (void)loop_fd_set_events(server->listen_source, 0);
        }
        if (fd < 0)
            break;
        FabSession *s = connection_new(server, fd);
        if (!s)
            continue;
        evict(server, s->uid);
        if (!s->doomed)
            on_hello(s); /* mostly there already */
    }
    fab_server_timer_update(server);
}
