/*
 * The client's side: connecting, descriptors, completions, the arena, sleeping. Delivery is in fab_receive.c.
 *
 * Everything that says where things are is private: positions, the allocator, which blocks are in use. What a killed client
 * leaves in C is therefore at most whole descriptors in front of sq_tail, and nothing to unblock.
 *
 * The broker is trusted with our memory but not to be of our version or in good health: what it sends is checked before it
 * is used as a size or a position, and nonsense breaks the session instead of the process.
 *
 * INV-FAB-1, the client's half: store what is published or need_wakeup, full fence, load the broker's words.
 */

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "shm/fab_client_private.h"
#include "shm/fab_memfd.h"

#define GROWTH_FACTOR    4
#define GROWTH_RETRY_NS  NS_PER_S
#define QUEUE_MAX        (1u << 16) /* entries that a broker may choose */
#define CONNECT_RETRY_MS 2

enum { WATCH_WAKEUP, WATCH_SOCKET };

/* ---- fork ---- */

static atomic_uint fork_count;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void on_fork_child(void)
{
    atomic_fetch_add_explicit(&fork_count, 1, memory_order_relaxed);
}

static void fork_watch(void)
{
    (void)pthread_atfork(NULL, NULL, on_fork_child);
}

bool fab_client_is_ours(const FabClient *c)
{
    return LIKELY(c->fork_count == atomic_load_explicit(&fork_count, memory_order_relaxed));
}

void fab_client_break(FabClient *c, const char *why)
{
    if (!c->broken && !c->farewell)
        (void)snprintf(c->why, sizeof(c->why), "%s", why);
    c->broken = true;
}

const char *fab_client_why(const FabClient *c)
{
    return c->why;
}

/* ---- connecting ---- */

static int connect_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t n = strlen(path);

    if (n == 0 || n >= sizeof(address.sun_path))
        return n == 0 ? -EINVAL : -ENAMETOOLONG;
    memcpy(address.sun_path, path, n + 1);
    _cleanup_(base_closep) int fd =
        socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        return -errno;
    int connected = fd;
    fd = -1;
    return connected;
}

static void copy_text(char *to, size_t size, const char *from)
{
    size_t n = from ? strnlen(from, size) : 0;
    memcpy(to, from ? from : "", n);
}

static int send_hello(const FabClient *c, const FabClientOptions *o)
{
    FabHello hello = {
        .magic = FAB_MAGIC,
        .abi_major = FAB_ABI_MAJOR,
        .abi_minor = FAB_ABI_MINOR,
        .role = o->role,
        .arena_size = o->arena_size,
        .delivery_size = o->delivery_size,
    };

    copy_text(hello.build_id, sizeof(hello.build_id), o->build_id);
    copy_text(hello.client_id, sizeof(hello.client_id) - 1, o->client_id);
    return sock_send_fds(c->socket_fd, &hello, sizeof(hello), NULL, 0);
}

int fab_client_begin(const FabClientOptions *o, FabClient **ret)
{
    (void)pthread_once(&fork_once, fork_watch);
    FabClient *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->fork_count = atomic_load_explicit(&fork_count, memory_order_relaxed);
    c->wakeup_fd = c->doorbell_fd = c->epoll_fd = -1;
    c->socket_fd = connect_socket(o->socket_path);
    int r = c->socket_fd < 0 ? c->socket_fd : send_hello(c, o);
    if (r < 0) {
        fab_client_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

int fab_client_socket(const FabClient *c)
{
    return c->socket_fd;
}

static bool power_of_two(uint64_t n)
{
    return n > 0 && (n & (n - 1)) == 0;
}

static bool has_size(int fd, uint64_t size)
{
    struct stat st;
    return fstat(fd, &st) == 0 && st.st_size >= 0 && (uint64_t)st.st_size == size;
}

static bool welcome_is_sane(const FabWelcome *w, const int fds[FAB_WELCOME_FDS])
{
    size_t page = fab_page_size();

    return w->magic == FAB_MAGIC && w->abi_major == FAB_ABI_MAJOR && power_of_two(w->sq_entries) &&
           w->sq_entries <= QUEUE_MAX && power_of_two(w->cq_entries) &&
           w->cq_entries <= QUEUE_MAX && w->arena_size > 0 && w->arena_size % page == 0 &&
           w->arena_size <= FAB_ARENA_MAX && power_of_two(w->delivery_size) &&
           w->delivery_size >= page && w->delivery_size <= FAB_DELIVERY_MAX &&
           w->arena_offset % page == 0 &&
           w->arena_offset >= FAB_PAGE + w->sq_entries * sizeof(FabSqe) &&
           w->delivery_offset % page == 0 &&
           w->delivery_offset >= FAB_PAGE + w->cq_entries * sizeof(FabCqe) &&
           has_size(fds[FAB_FD_C], (uint64_t)w->arena_offset + w->arena_size) &&
           has_size(fds[FAB_FD_D], (uint64_t)w->delivery_offset + w->delivery_size);
}

static int map_c(FabClient *c, int fd)
{
    const FabWelcome *w = &c->welcome;

    c->arena_size = w->arena_size;
    c->arena_limit = MAX(w->arena_size, FAB_GROWTH_MAX);
    c->c_reserved = (size_t)w->arena_offset + c->arena_limit;
    c->c_map = fab_map_reserve(c->c_reserved);
    if (!c->c_map)
        return -ENOMEM;
    int r = fab_map_at(c->c_map, (size_t)w->arena_offset + w->arena_size, PROT_READ | PROT_WRITE,
                       fd, 0);
    if (r < 0)
        return r;
    c->out = (FabClientPage *)(void *)c->c_map;
    c->sq = (FabSqe *)(void *)(c->c_map + FAB_PAGE);
    c->sq_mask = w->sq_entries - 1;
    c->arena = c->c_map + w->arena_offset;
    c->owned = malloc(w->sq_entries * sizeof(*c->owned));
    return c->owned ? fab_blocks_extend(&c->blocks, c->arena_size) : -ENOMEM;
}

static int map_d(FabClient *c, int fd)
{
    const FabWelcome *w = &c->welcome;
    size_t size = (size_t)w->delivery_offset + w->delivery_size;

    c->d_reserved = size + w->delivery_size;
    uint8_t *map = fab_map_reserve(c->d_reserved);
    if (!map)
        return -ENOMEM;
    c->d_map = map;
    int r = fab_map_at(map, size, PROT_READ, fd, 0);
    if (r == 0)
        r = fab_map_at(map + size, w->delivery_size, PROT_READ, fd, w->delivery_offset);
    c->in = (const FabBrokerPage *)(const void *)map;
    c->cq = (const FabCqe *)(const void *)(map + FAB_PAGE);
    c->cq_mask = w->cq_entries - 1;
    c->ring = map + w->delivery_offset;
    c->ring_size = w->delivery_size;
    return r;
}

/* One fd for all: edge-triggered inside, so one epoll_wait() both asks and clears; level-triggered for who watches it. */
static int watch(FabClient *c)
{
    struct epoll_event wakeup = {.events = EPOLLIN | EPOLLET, .data.u32 = WATCH_WAKEUP};
    struct epoll_event socket = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET,
                                 .data.u32 = WATCH_SOCKET};

    c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (c->epoll_fd < 0 || epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->wakeup_fd, &wakeup) < 0 ||
        epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->socket_fd, &socket) < 0)
        return -errno;
    return 0;
}

static int attach(FabClient *c, int fds[FAB_WELCOME_FDS])
{
    if (!welcome_is_sane(&c->welcome, fds))
        return -EPROTO;
    c->wakeup_fd = fds[FAB_FD_WAKEUP];
    c->doorbell_fd = fds[FAB_FD_DOORBELL];
    fds[FAB_FD_WAKEUP] = fds[FAB_FD_DOORBELL] = -1;
    int r = map_c(c, fds[FAB_FD_C]);
    if (r == 0)
        r = map_d(c, fds[FAB_FD_D]);
    if (r == 0)
        r = watch(c);
    c->connected = r == 0;
    return r;
}

int fab_client_finish(FabClient *c, char *ret_why, size_t why_size)
{
    union {
        FabRefusal refusal;
        FabWelcome welcome;
    } m;
    int fds[FAB_WELCOME_FDS] = {-1, -1, -1, -1};
    size_t n_fds = ARRAY_SIZE(fds);
    static_assert(sizeof(FabRefusal) != sizeof(FabWelcome), "told apart by size");
    static_assert(ARRAY_SIZE(fds) == 4, "initialiser");

    assert(!c->connected);
    ssize_t n = sock_recv_fds(c->socket_fd, &m, sizeof(m), fds, &n_fds);
    if (n <= 0)
        return n == 0 ? -ECONNRESET : (int)n;
    int r = -EPROTO;
    if (n == (ssize_t)sizeof(FabRefusal) && m.refusal.magic == FAB_MAGIC) {
        r = m.refusal.error < 0 ? m.refusal.error : -EPROTO;
        if (r == -EAGAIN) /* ours means: ask again */
            r = -EBUSY;
        (void)snprintf(c->why, sizeof(c->why), "%.*s", (int)sizeof(m.refusal.why) - 1,
                       m.refusal.why);
    } else if (n == (ssize_t)sizeof(FabWelcome) && n_fds == FAB_WELCOME_FDS) {
        c->welcome = m.welcome;
        r = attach(c, fds);
        if (r < 0)
            (void)snprintf(c->why, sizeof(c->why), "the broker's answer cannot be used: %s",
                           strerror(-r));
    } else {
        (void)snprintf(c->why, sizeof(c->why), "the answer is not of the session protocol");
    }
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        base_closep(&fds[i]);
    if (r < 0 && ret_why && why_size > 0)
        (void)snprintf(ret_why, why_size, "%s", c->why);
    return r;
}

static int begin_patiently(const FabClientOptions *o, int64_t deadline_ns, FabClient **ret)
{
    for (;;) {
        int r = fab_client_begin(o, ret);
        if (r != -EAGAIN || clock_mono_ns() >= deadline_ns)
            return r == -EAGAIN ? -ETIMEDOUT : r;
        (void)poll(NULL, 0, CONNECT_RETRY_MS);
    }
}

int fab_client_new(const FabClientOptions *o, FabClient **ret, char *ret_why, size_t why_size)
{
    int64_t deadline_ns = clock_mono_ns() + o->timeout_ms * NS_PER_MS;
    FabClient *c = NULL;

    if (ret_why && why_size > 0)
        ret_why[0] = '\0';
    int r = begin_patiently(o, deadline_ns, &c);
    if (r < 0)
        return r;
    while ((r = fab_client_finish(c, ret_why, why_size)) == -EAGAIN) {
        struct pollfd p = {.fd = c->socket_fd, .events = POLLIN};
        int64_t left_ms = (deadline_ns - clock_mono_ns() + NS_PER_MS - 1) / NS_PER_MS;
        if (left_ms <= 0) {
            r = -ETIMEDOUT;
            break;
        }
        (void)poll(&p, 1, (int)MIN(left_ms, (int64_t)INT32_MAX));
    }
    if (r < 0) {
        fab_client_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

FabClient *fab_client_free(FabClient *c)
{
    if (!c)
        return NULL;
    /* In a child nothing of it is mapped, and others may be at those addresses. */
    bool ours = fab_client_is_ours(c);
    fab_receive_deinit(c, ours);
    if (ours && c->c_map)
        (void)munmap(c->c_map, c->c_reserved);
    if (ours && c->d_map)
        (void)munmap((void *)(uintptr_t)c->d_map, c->d_reserved);
    fab_blocks_deinit(&c->blocks);
    free(c->owned);
    base_closep(&c->epoll_fd);
    base_closep(&c->wakeup_fd);
    base_closep(&c->doorbell_fd);
    base_closep(&c->socket_fd);
    free(c);
    return NULL;
}

const FabWelcome *fab_client_welcome(const FabClient *c)
{
    return &c->welcome;
}

/* ---- descriptors ---- */

/* Looks how far the broker has come and frees the blocks given to it. */
static void take_head(FabClient *c)
{
    uint64_t head = atomic_load_explicit(&c->in->sq_head, memory_order_acquire);

    if (head - c->sq_head > c->sq_tail - c->sq_head) {
        fab_client_break(c, "sq_head outside of the queue");
        return;
    }
    for (; c->sq_head != head; c->sq_head++) {
        uint32_t block = c->owned[c->sq_head & c->sq_mask];
        if (block != FAB_BLOCK_NONE)
            fab_blocks_free(&c->blocks, block);
    }
}

static int queue_room(FabClient *c)
{
    if (UNLIKELY(!fab_client_is_ours(c)))
        return -ECHILD;
    if (UNLIKELY(c->broken))
        return -ECONNRESET;
    if (LIKELY(c->sq_tail - c->sq_head <= c->sq_mask))
        return 0;
    take_head(c);
    if (c->sq_tail - c->sq_head <= c->sq_mask)
        return 0;
    c->starved |= FAB_STARVED_QUEUE;
    return -EAGAIN;
}

static void publish(FabClient *c, const FabSqe *sqe, uint32_t block)
{
    uint64_t i = c->sq_tail & c->sq_mask;

    c->sq[i] = *sqe;
    c->owned[i] = block;
    c->sq_tail++;
    atomic_store_explicit(&c->out->sq_tail, c->sq_tail, memory_order_release);
    c->submitted = true;
    c->starved &= (uint8_t)~FAB_STARVED_QUEUE;
}

int fab_client_submit(FabClient *c, const FabSqe *sqe)
{
    int r = queue_room(c);
    if (r == 0)
        publish(c, sqe, FAB_BLOCK_NONE);
    return r;
}

int fab_client_submit_block(FabClient *c, const FabSqe *sqe, void *block)
{
    int r = queue_room(c);
    if (r == 0)
        publish(c, sqe, (uint32_t)fab_arena_offset(c, block));
    return r;
}

int fab_client_submit_memfd(FabClient *c, const FabSqe *sqe, const void *payload, size_t size)
{
    FabControl control = {.magic = FAB_MAGIC, .kind = FAB_CONTROL_PAYLOAD, .size = size};
    FabSqe out = *sqe;

    if (size == 0 || size > FAB_BATCH_MAX)
        return -EMSGSIZE;
    int r = queue_room(c);
    if (r < 0)
        return r;
    _cleanup_(base_closep) int fd = fab_memfd_new("leat-payload", size, false);
    r = fd < 0 ? fd : fs_pwrite_all(fd, payload, size, 0);
    if (r == 0)
        r = fab_memfd_seal(fd, FAB_SEALS_PAYLOAD);
    if (r == 0)
        r = sock_send_fds(c->socket_fd, &control, sizeof(control), &fd, 1);
    if (r == -EPIPE || r == -ECONNRESET)
        return -ECONNRESET;
    if (r < 0) {
        if (r == -EAGAIN) /* the broker reads its socket as it takes descriptors */
            c->starved |= FAB_STARVED_QUEUE;
        return r;
    }
    out.off = 0;
    out.len = (uint32_t)size;
    out.flags |= FAB_SQE_IN_MEMFD;
    publish(c, &out, FAB_BLOCK_NONE);
    return 0;
}

bool fab_client_reap(FabClient *c, FabCqe *ret)
{
    if (UNLIKELY(!fab_client_is_ours(c)))
        return false;
    if (c->cq_head == c->cq_tail) {
        uint64_t tail = atomic_load_explicit(&c->in->cq_tail, memory_order_acquire);
        if (tail - c->cq_head > (uint64_t)c->cq_mask + 1) {
            fab_client_break(c, "cq_tail outside of the queue");
            return false;
        }
        c->cq_tail = tail;
        if (c->cq_head == tail)
            return false;
    }
    *ret = c->cq[c->cq_head & c->cq_mask];
    c->cq_head++;
    atomic_store_explicit(&c->out->cq_head, c->cq_head, memory_order_release);
    return true;
}

/* ---- the arena ---- */

void fab_client_arena_reply(FabClient *c, const FabControl *m)
{
    if (!c->growth_asked)
        return;
    c->growth_asked = false;
    uint32_t size = c->arena_size + c->growth_size;
    int r = m->error;
    if (r == 0)
        r = m->size == size ? fab_blocks_extend(&c->blocks, size) : -EPROTO;
    if (r == 0) {
        c->arena_size = size;
        return;
    }
    /* The reservation takes the place back. An arena that the broker has and we could not use ends growth. */
    (void)mmap(c->arena + c->arena_size, c->growth_size, PROT_NONE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    c->growth_after_ns = m->error == 0 ? INT64_MAX : clock_mono_ns() + GROWTH_RETRY_NS;
    if (m->error != 0)
        (void)snprintf(c->why, sizeof(c->why), "%.*s", (int)sizeof(m->why) - 1, m->why);
}

static void arena_grow(FabClient *c, uint32_t wanted)
{
    uint64_t least = align_up((uint64_t)c->arena_size + wanted, fab_page_size());
    uint64_t size =
        MIN(MAX((uint64_t)c->arena_size * GROWTH_FACTOR, least), (uint64_t)c->arena_limit);

    if (c->growth_asked || c->broken || size < least || clock_mono_ns() < c->growth_after_ns)
        return;
    FabControl control = {
        .magic = FAB_MAGIC, .kind = FAB_CONTROL_ARENA, .size = size - c->arena_size};
    c->growth_after_ns = clock_mono_ns() + GROWTH_RETRY_NS;
    _cleanup_(base_closep) int fd = fab_memfd_new("leat-arena", control.size, false);
    if (fd < 0 || fab_memfd_seal(fd, FAB_SEALS_C) < 0 ||
        fab_map_at(c->arena + c->arena_size, control.size, PROT_READ | PROT_WRITE, fd, 0) < 0)
        return;
    if (sock_send_fds(c->socket_fd, &control, sizeof(control), &fd, 1) < 0)
        return;
    c->growth_asked = true;
    c->growth_size = (uint32_t)control.size;
    c->growth_after_ns = 0;
}

void *fab_arena_alloc(FabClient *c, uint32_t size)
{
    if (UNLIKELY(!fab_client_is_ours(c)))
        return NULL;
    uint32_t at = fab_blocks_alloc(&c->blocks, size);
    if (UNLIKELY(at == FAB_BLOCK_NONE)) {
        take_head(c);
        if (c->growth_asked)
            fab_client_read_socket(c);
        at = fab_blocks_alloc(&c->blocks, size);
    }
    if (UNLIKELY(at == FAB_BLOCK_NONE)) {
        arena_grow(c, size);
        c->starved |= FAB_STARVED_ARENA;
        return NULL;
    }
    c->starved &= (uint8_t)~FAB_STARVED_ARENA;
    return c->arena + at;
}

uint32_t fab_arena_block_max(const FabClient *c)
{
    return c->arena_limit / 2;
}

uint64_t fab_arena_offset(const FabClient *c, const void *block)
{
    const uint8_t *at = block;
    assert(at >= c->arena && at < c->arena + c->arena_size);
    return (uint64_t)(at - c->arena);
}

void fab_arena_shrink(FabClient *c, void *block, uint32_t size)
{
    if (fab_client_is_ours(c))
        fab_blocks_shrink(&c->blocks, (uint32_t)fab_arena_offset(c, block), size);
}

void fab_arena_free(FabClient *c, void *block)
{
    if (block && fab_client_is_ours(c))
        fab_blocks_free(&c->blocks, (uint32_t)fab_arena_offset(c, block));
}

/* ---- doorbells and sleep ---- */

/* After a full fence. Credit that the broker waits for is worth a doorbell at half a ring, or before we sleep. */
static void ring_if_needed(FabClient *c, bool sleeping)
{
    uint64_t need = atomic_load_explicit(&c->in->need_doorbell, memory_order_acquire);
    bool submitted = c->submitted;

    c->submitted = false;
    if (need == c->rung)
        return;
    uint64_t consumed = atomic_load_explicit(&c->in->want_consumed, memory_order_relaxed);
    uint64_t cq_head = atomic_load_explicit(&c->in->want_cq_head, memory_order_relaxed);
    bool credit = c->released >= consumed && (sleeping || c->released == c->tail ||
                                              c->released - consumed >= c->ring_size / 2);
    if (!submitted && !credit && c->cq_head < cq_head)
        return;
    c->rung = need;
    uint64_t one = 1;
    (void)!write(c->doorbell_fd, &one, sizeof(one));
}

void fab_client_flush(FabClient *c)
{
    if (UNLIKELY(!fab_client_is_ours(c) || c->broken))
        return;
    /* Pairs with the broker's between need_doorbell and its second look. */
    fab_fence();
    ring_if_needed(c, false);
}

static bool anything_there(FabClient *c)
{
    if (c->starved && atomic_load_explicit(&c->in->sq_head, memory_order_relaxed) != c->sq_head) {
        take_head(c); /* said once; the caller tries again what had failed */
        return true;
    }
    if (atomic_load_explicit(&c->in->epoch, memory_order_relaxed) == 0)
        return true;
    return atomic_load_explicit(&c->in->cq_tail, memory_order_relaxed) != c->cq_head ||
           atomic_load_explicit(&c->in->delivery_tail, memory_order_relaxed) != c->next;
}

bool fab_client_arm(FabClient *c)
{
    if (UNLIKELY(!fab_client_is_ours(c) || c->broken))
        return false;
    c->n_arms += 2;
    atomic_store_explicit(&c->out->need_wakeup, c->n_arms | (c->starved != 0),
                          memory_order_relaxed);
    /* Pairs with ring_doorbells() of the broker, and see flush. */
    fab_fence();
    ring_if_needed(c, true);
    return !anything_there(c);
}

static void handle_events(FabClient *c, const struct epoll_event *events, int n)
{
    for (int i = 0; i < n; i++) {
        if (events[i].data.u32 != WATCH_SOCKET)
            continue;
        fab_client_read_socket(c); /* first the last words */
        if (events[i].events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR))
            fab_client_break(c, "the broker hung up");
    }
    if (!c->broken && atomic_load_explicit(&c->in->epoch, memory_order_acquire) == 0) {
        fab_client_read_socket(c);
        fab_client_break(c, "the broker closed the session");
    }
}

int fab_client_process(FabClient *c)
{
    struct epoll_event events[2];

    if (!fab_client_is_ours(c))
        return -ECHILD;
    if (!c->broken)
        handle_events(c, events, epoll_wait(c->epoll_fd, events, ARRAY_SIZE(events), 0));
    return c->broken ? -ECONNRESET : 0;
}

int fab_client_wait(FabClient *c, int64_t timeout_ns)
{
    struct epoll_event events[2];
    struct timespec t = {.tv_sec = timeout_ns / NS_PER_S, .tv_nsec = timeout_ns % NS_PER_S};

    if (!fab_client_is_ours(c))
        return -ECHILD;
    if (c->broken)
        return -ECONNRESET;
    if (!fab_client_arm(c)) {
        handle_events(c, events, 0); /* no system call while there is something to take */
        return c->broken ? -ECONNRESET : 0;
    }
    int n = epoll_pwait2(c->epoll_fd, events, ARRAY_SIZE(events), timeout_ns < 0 ? NULL : &t, NULL);
    if (n < 0 && errno == ENOSYS) /* before 5.11 */
        n = epoll_wait(c->epoll_fd, events, ARRAY_SIZE(events),
                       timeout_ns < 0 ? -1
                                      : (int)MIN((timeout_ns + NS_PER_MS - 1) / NS_PER_MS,
                                                 (int64_t)INT32_MAX));
    if (n < 0)
        return -errno;
    handle_events(c, events, n);
    return c->broken ? -ECONNRESET : 0;
}

int fab_client_fd(const FabClient *c)
{
    return c->epoll_fd;
}

void fab_client_touch_progress(FabClient *c)
{
    if (fab_client_is_ours(c))
        atomic_store_explicit(&c->out->progress, ++c->progress, memory_order_relaxed);
}
