/*
 * Arbitrary bytes as what one end of a session does to the other. The first byte chooses the end: a client that writes
 * words, descriptors and datagrams at a broker, or a broker that writes words, frames and datagrams at our client library.
 * The victim may end the session and nothing else; all memory and every descriptor is given back in the end.
 *
 * A step is an op byte and its arguments; what the input lacks reads as zero.
 */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shm/fab_client_private.h"
#include "shm/fab_memfd.h"
#include "shm/fab_server_private.h"

#define STEPS_MAX 200

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Input {
    const uint8_t *at;
    size_t left;
} Input;

static Loop *loop;
static FabServer *server;
static FabSession *session; /* the one open now */
static char path[64];
static unsigned n_retries;

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void take(Input *in, void *to, size_t size)
{
    size_t n = MIN(size, in->left);

    memset(to, 0, size);
    if (n > 0)
        memcpy(to, in->at, n);
    in->at += n;
    in->left -= n;
}

static uint8_t take_u8(Input *in)
{
    uint8_t v;
    take(in, &v, sizeof(v));
    return v;
}

/* A position near one that makes sense, or any at all. */
static uint64_t take_position(Input *in, uint64_t near)
{
    uint8_t how = take_u8(in);
    uint64_t any;

    if (how < 250)
        return near + (uint64_t)(int64_t)(int8_t)how * (how & 1 ? 1 : 64);
    take(in, &any, sizeof(any));
    return any;
}

/* ---- the service ---- */

static int authorize(void *userdata UNUSED,
                     const PeerCred *peer UNUSED,
                     const FabHello *hello UNUSED,
                     char *why UNUSED,
                     size_t n UNUSED)
{
    return 0;
}

static void opened(void *userdata UNUSED, FabSession *s)
{
    session = s;
}

static void closed(void *userdata UNUSED, FabSession *s, const char *why)
{
    require(session == s && why[0] != '\0');
    session = NULL;
}

static void fill_ring(FabSession *s, size_t size)
{
    void *at;

    for (unsigned i = 0; i < 200 && (at = fab_session_reserve(s, size)) != NULL; i++) {
        memset(at, 1, size);
        fab_session_commit(s, &(FabFrame){.type = FAB_FRAME_BATCHES, .size = (uint32_t)size});
    }
}

static int on_sqe(void *userdata UNUSED, FabSession *s, const FabSqe *sqe, const void *payload)
{
    static uint8_t copy[FAB_BATCH_MAX];

    if (sqe->len > 0)
        memcpy(copy, payload, sqe->len);
    if ((sqe->handle & 7) == 7 && n_retries++ % 2 == 0)
        return FAB_RETRY;
    if ((sqe->handle & 31) == 30)
        fab_session_close(s, "asked to");
    FabCqe cqe = {.kind = FAB_CQE_CONSUMED, .user_data = sqe->user_data};
    if (sqe->op == FAB_OP_PRODUCE)
        fab_session_complete(s, &cqe);
    cqe.kind = sqe->op == FAB_OP_PRODUCE ? FAB_CQE_ACKED : FAB_CQE_DONE;
    if (sqe->op != FAB_OP_REQUEST)
        fab_session_complete(s, &cqe);
    if (sqe->op == FAB_OP_REQUEST)
        (void)fab_session_send(
            s, &(FabFrame){.type = FAB_FRAME_RESPONSE, .size = sqe->timeout_ms % 300000}, copy);
    if (sqe->op == FAB_OP_SUBSCRIBE)
        fill_ring(s, sqe->timeout_ms % (FAB_RING_MIN / 2 - 64));
    return 0;
}

static void on_space(void *userdata UNUSED, FabSession *s)
{
    fill_ring(s, 1000);
}

static void forget_path(void)
{
    (void)unlink(path);
}

static void start(void)
{
    static const FabServerOps ops = {.authorize = authorize,
                                     .opened = opened,
                                     .closed = closed,
                                     .on_sqe = on_sqe,
                                     .on_space = on_space};
    FabServerOptions o = {.broker_epoch = 1, .memory_max = 64u << 20, .sessions_max = 10};

    if (loop)
        return;
    (void)snprintf(path, sizeof(path), "/tmp/leat-fuzz-%d.sock", (int)getpid());
    o.listen_fd = sock_listen_unix(path, SOCK_SEQPACKET, 0600, 8);
    require(o.listen_fd >= 0 && loop_new(&loop) == 0 && atexit(forget_path) == 0);
    require(fab_server_new(loop, &o, &ops, NULL, &server) == 0);
}

static void turn(void)
{
    require(loop_turn(loop, 0) == 0 && loop_turn(loop, 1) == 0);
}

static FabClient *join(uint8_t how)
{
    FabClientOptions o = {.socket_path = path,
                          .role = how & 1 ? FAB_ROLE_CONTROLLER : FAB_ROLE_CLIENT,
                          .delivery_size = FAB_RING_MIN};
    FabClient *c = NULL;

    require(fab_client_begin(&o, &c) == 0);
    turn();
    require(fab_client_finish(c, NULL, 0) == 0 && session != NULL);
    return c;
}

/* ---- either end's datagrams ---- */

static int make_fd(uint8_t how, uint64_t size)
{
    static const int seals[] = {FAB_SEALS_C, FAB_SEALS_PAYLOAD, FAB_SEALS_D, FAB_SEALS_OUT, 0};

    if (how % 8 >= ARRAY_SIZE(seals))
        return open("/dev/null", O_RDONLY | O_CLOEXEC);
    int fd = fab_memfd_new("fuzz", size, false);
    if (fd >= 0)
        (void)fab_memfd_seal(fd, seals[how % 8]);
    return fd;
}

static void send_datagram(Input *in, int socket_fd)
{
    FabControl m = {.magic = FAB_MAGIC};
    uint8_t how = take_u8(in);
    int fd = -1;

    m.kind = take_u8(in) % 7;
    m.size = (uint64_t)(take_u8(in) + 1) * 4096 + (how >= 240);
    m.error = how % 5 == 4 ? -1 : 0;
    if (how % 16 == 15)
        take(in, &m, sizeof(m));
    if (how % 4 != 3)
        fd = make_fd(how / 4, m.size < (1u << 24) ? m.size : 4096);
    (void)sock_send_fds(socket_fd, &m, how % 32 == 31 ? 100 : sizeof(m), &fd, fd >= 0);
    base_closep(&fd);
}

/* ---- a client against the broker ---- */

static void client_step(FabClient *c, Input *in)
{
    _Atomic uint64_t *words[] = {&c->out->sq_tail, &c->out->cq_head, &c->out->delivery_consumed,
                                 &c->out->need_wakeup};
    const _Atomic uint64_t *near[] = {&c->in->sq_head, &c->in->cq_tail, &c->in->delivery_tail,
                                      &c->in->need_doorbell};
    uint64_t one = 1;
    uint8_t op = take_u8(in), i;

    switch (op % 8) {
    case 0:
    case 1:
        i = take_u8(in) % 4;
        atomic_store(words[i], take_position(in, atomic_load(near[i])));
        break;
    case 2:
        take(in, &c->sq[take_u8(in) & c->sq_mask], sizeof(FabSqe));
        break;
    case 3: { /* one that would pass */
        FabSqe sqe = {.op = take_u8(in) % FAB_OP_COUNT,
                      .acks = 1,
                      .handle = take_u8(in),
                      .len = take_u8(in) * 100u};
        sqe.timeout_ms = take_u8(in) * 1500u;
        sqe.flags = sqe.handle % 16 == 5 ? FAB_SQE_IN_MEMFD : 0;
        (void)fab_client_submit(c, &sqe);
        break;
    }
    case 4:
        send_datagram(in, c->socket_fd);
        break;
    case 5:
        require(write(c->doorbell_fd, &one, sizeof(one)) == sizeof(one));
        turn();
        break;
    case 6:
        if (session)
            fab_session_resume(session);
        turn();
        break;
    default:
        turn();
        break;
    }
}

/* ---- a broker against the client ---- */

static void use_client(FabClient *c)
{
    static volatile uint8_t sink;
    FabDelivery d;
    FabCqe cqe;

    for (unsigned i = 0; i < 100 && fab_client_next(c, &d); i++) {
        const uint8_t *payload = d.payload;
        if (d.frame.size > 0)
            sink = (uint8_t)(sink + payload[0] + payload[d.frame.size - 1]);
        for (size_t k = 0; k < FAB_FRAME_FDS_MAX; k++)
            base_closep(&d.fds[k]);
        if (i % 3 == 0)
            fab_client_release(c, d.release_at);
    }
    for (unsigned i = 0; i < 5000 && fab_client_reap(c, &cqe); i++)
        ;
    void *block = fab_arena_alloc(c, 300000);
    FabSqe sqe = {.op = FAB_OP_NOP};
    if (block && fab_client_submit_block(c, &sqe, block) < 0)
        fab_arena_free(c, block);
    (void)fab_client_wait(c, 0);
    (void)fab_client_process(c);
}

static void broker_step(FabClient *c, Input *in)
{
    FabSession *s = session;
    _Atomic uint64_t *words[] = {&s->out->sq_head,       &s->out->cq_tail,
                                 &s->out->delivery_tail, &s->out->need_doorbell,
                                 &s->out->want_consumed, &s->out->want_cq_head};
    const _Atomic uint64_t *near[] = {&s->in->sq_tail,           &s->in->cq_head,
                                      &s->in->delivery_consumed, &s->in->need_wakeup,
                                      &s->in->delivery_consumed, &s->in->cq_head};
    uint8_t op = take_u8(in), i;
    FabFrame frame = {0};

    switch (op % 5) {
    case 0:
        i = take_u8(in) % 6;
        atomic_store(words[i], take_position(in, atomic_load(near[i])));
        break;
    case 1: /* a frame header anywhere in the ring */
        take(in, &frame, sizeof(frame));
        memcpy(s->d_map + server->delivery_offset +
                   (take_u8(in) * FAB_FRAME_ALIGN & (FAB_RING_MIN - 1)),
               &frame, sizeof(frame));
        break;
    case 2: /* one that would pass */
        frame = (FabFrame){.type = take_u8(in) % FAB_FRAME_COUNT,
                           .flags = take_u8(in) % 4 ? 0 : FAB_FRAME_HAS_FDS};
        frame.size = take_u8(in) * 64u;
        frame.tag = (uint64_t)FAB_RING_MIN << take_u8(in) % 10;
        memcpy(s->d_map + server->delivery_offset + (c->next & (FAB_RING_MIN - 1)), &frame,
               sizeof(frame));
        atomic_store(&s->out->delivery_tail, c->next + 64 + frame.size);
        break;
    case 3:
        send_datagram(in, s->socket_fd);
        break;
    default:
        break;
    }
    use_client(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Input in = {data, size};

    start();
    uint8_t how = take_u8(&in);
    FabClient *c = join(how >> 1);
    for (unsigned i = 0; i < STEPS_MAX && in.left > 0 && session; i++) {
        if (how & 1)
            broker_step(c, &in);
        else
            client_step(c, &in);
    }
    fab_client_free(c);
    turn();
    turn();
    require(session == NULL && fab_server_memory(server) == 0 && fab_server_sessions(server) == 0);
    return 0;
}
