#include "tests/shm/rig.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

void fill_pattern(void *data, size_t size, uint64_t seed)
{
    uint8_t *at = data;
    for (size_t i = 0; i < size; i++)
        at[i] = (uint8_t)((seed * 131 + i * 7 + (i >> 8)) & 0xff);
}

bool has_pattern(const void *data, size_t size, uint64_t seed)
{
    const uint8_t *at = data;
    for (size_t i = 0; i < size; i++)
        if (at[i] != (uint8_t)((seed * 131 + i * 7 + (i >> 8)) & 0xff))
            return false;
    return true;
}

unsigned count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    ck_assert_ptr_nonnull(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static int authorize(
    void *userdata, const PeerCred *peer, const FabHello *hello UNUSED, char *why, size_t why_size)
{
    Rig *rig = userdata;

    ck_assert_int_gt(peer->pid, 0);
    if (rig->authorize_error)
        (void)snprintf(why, why_size, "uid %u may not; add it to group leat-clients",
                       (unsigned)peer->uid);
    return rig->authorize_error;
}

static void opened(void *userdata, FabSession *s)
{
    Rig *rig = userdata;
    rig->n_opened++;
    rig->last = s;
    fab_session_set_userdata(s, calloc(1, sizeof(Stream)));
}

static void closed(void *userdata, FabSession *s, const char *why)
{
    Rig *rig = userdata;
    rig->n_closed++;
    (void)snprintf(rig->last_why, sizeof(rig->last_why), "%s", why);
    if (rig->last == s)
        rig->last = NULL;
    free(fab_session_userdata(s));
}

void rig_stream(Rig *rig UNUSED, FabSession *s)
{
    Stream *stream = fab_session_userdata(s);

    while (stream->sent < stream->n) {
        FabFrame frame = {.type = FAB_FRAME_BATCHES, .size = stream->size, .tag = stream->sent};
        void *at = fab_session_reserve(s, stream->size);
        if (!at)
            return;
        fill_pattern(at, stream->size, stream->sent);
        fab_session_commit(s, &frame);
        stream->sent++;
    }
}

static void on_space(void *userdata, FabSession *s)
{
    Rig *rig = userdata;
    rig->n_spaces++;
    rig_stream(rig, s);
}

static void produce(Rig *rig, FabSession *s, const FabSqe *sqe, const void *payload)
{
    FabCqe cqe = {.user_data = sqe->user_data, .kind = FAB_CQE_CONSUMED};

    rig->n_produced++;
    rig->produced_bytes += sqe->len;
    if (payload)
        rig->produced_sum += crc32c(0, payload, sqe->len);
    if (rig->mute)
        return;
    fab_session_complete(s, &cqe);
    if (sqe->acks == 0 || rig->hold_acks)
        return;
    cqe.kind = FAB_CQE_ACKED;
    cqe.base_offset = rig->n_produced - 1;
    fab_session_complete(s, &cqe);
}

static int on_sqe(void *userdata, FabSession *s, const FabSqe *sqe, const void *payload)
{
    Rig *rig = userdata;
    FabCqe done = {.user_data = sqe->user_data, .kind = FAB_CQE_DONE};
    FabFrame response = {.type = FAB_FRAME_RESPONSE, .tag = sqe->user_data, .size = sqe->len};
    Stream *stream = fab_session_userdata(s);

    rig->n_sqes++;
    if (rig->retry > 0) {
        rig->retry--;
        return FAB_RETRY;
    }
    if (rig->on_sqe)
        return rig->on_sqe(rig, s, sqe, payload);
    switch ((FabOp)sqe->op) {
    case FAB_OP_PRODUCE:
        produce(rig, s, sqe, payload);
        break;
    case FAB_OP_REQUEST:
        (void)fab_session_send(s, &response, payload); /* a failure closes the session */
        break;
    case FAB_OP_SUBSCRIBE:
        *stream = (Stream){.n = sqe->user_data, .size = sqe->timeout_ms};
        fab_session_complete(s, &done);
        rig_stream(rig, s);
        break;
    case FAB_OP_OPEN:
    case FAB_OP_UNSUBSCRIBE:
    case FAB_OP_LEASE_RELEASE:
        fab_session_complete(s, &done);
        break;
    case FAB_OP_NOP:
    case FAB_OP_RESPONSE:
    case FAB_OP_NOTIFY:
    case FAB_OP_LEASE:
    case FAB_OP_COUNT:
        break;
    }
    return 0;
}

void rig_setup(Rig *rig, const FabServerOptions *o)
{
    static const FabServerOps ops = {
        .authorize = authorize,
        .opened = opened,
        .closed = closed,
        .on_sqe = on_sqe,
        .on_space = on_space,
    };

    *rig = (Rig){0};
    if (o)
        rig->o = *o;
    else
        rig->o = (FabServerOptions){
            .memory_max = 4ull << 30, .sessions_max = 2000, .message_max_bytes = 1 << 20};
    (void)snprintf(rig->dir, sizeof(rig->dir), "/tmp/leat-shm-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(rig->dir));
    (void)snprintf(rig->path, sizeof(rig->path), "%s/client.sock", rig->dir);
    rig->listen_fd = sock_listen_unix(rig->path, SOCK_SEQPACKET, 0666, 128);
    ck_assert_int_ge(rig->listen_fd, 0);
    rig->o.listen_fd = rig->listen_fd;
    if (!rig->o.broker_epoch)
        rig->o.broker_epoch = 77;
    ck_assert_int_eq(loop_new(&rig->loop), 0);
    ck_assert_int_eq(fab_server_new(rig->loop, &rig->o, &ops, rig, &rig->server), 0);
}

void rig_teardown(Rig *rig)
{
    fab_server_free(rig->server);
    loop_free(rig->loop);
    close(rig->listen_fd);
    unlink(rig->path);
    rmdir(rig->dir);
}

void rig_turn(Rig *rig)
{
    /* The second kind of turn is one that sleeps, if only for a moment: hooks for that run too. */
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(loop_turn(rig->loop, 0), 0);
        ck_assert_int_eq(loop_turn(rig->loop, 1000), 0);
    }
}

int rig_connect_with(Rig *rig, const FabClientOptions *o, FabClient **ret, char *why)
{
    FabClientOptions options = *o;
    FabClient *c = NULL;

    options.socket_path = rig->path;
    int r = fab_client_begin(&options, &c);
    if (r < 0)
        return r;
    for (int i = 0; i < 100; i++) {
        rig_turn(rig);
        r = fab_client_finish(c, why, 256);
        if (r != -EAGAIN)
            break;
    }
    if (r < 0) {
        fab_client_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

FabClient *rig_connect(Rig *rig)
{
    FabClientOptions o = {.client_id = "test"};
    FabClient *c = NULL;
    char why[256] = "";

    int r = rig_connect_with(rig, &o, &c, why);
    ck_assert_msg(r == 0, "%s: %s", strerror(-r), why);
    return c;
}

FabClient *rig_join(const char *path)
{
    FabClientOptions o = {.socket_path = path, .client_id = "child", .timeout_ms = 5000};
    FabClient *c = NULL;
    char why[256] = "";

    int r = fab_client_new(&o, &c, why, sizeof(why));
    if (r < 0)
        fprintf(stderr, "join: %s: %s\n", strerror(-r), why);
    REQUIRE(r == 0);
    return c;
}

pid_t rig_fork(Rig *rig, void (*fn)(const char *path, uint64_t argument), uint64_t argument)
{
    char path[sizeof(rig->path)];

    memcpy(path, rig->path, sizeof(path));
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        close(rig->listen_fd);
        fn(path, argument);
        _exit(0);
    }
    return pid;
}

int rig_serve_until_exit(Rig *rig, pid_t pid)
{
    int64_t deadline = clock_mono_ms() + 20000;
    int status;

    for (;;) {
        ck_assert_int_eq(loop_turn(rig->loop, 2 * NS_PER_MS), 0);
        pid_t got = waitpid(pid, &status, WNOHANG);
        ck_assert_int_ge(got, 0);
        if (got == pid)
            break;
        ck_assert_int_lt(clock_mono_ms(), deadline);
    }
    rig_turn(rig);
    return status;
}
