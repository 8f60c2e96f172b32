/*
 * hostile_session: a local client that owns its side of a session and abuses it.
 *
 *   hostile_session SOCKET TOPIC SECONDS SEED
 *
 * Each round opens a session properly, subscribes and produces a little, and then scribbles over everything it may write: tails,
 * descriptors, consumed positions, need words, arena bytes - from a second thread, while descriptors of random content are
 * submitted and the doorbell rings. Raw garbage on the socket, half handshakes and descriptor bombs come in between. The
 * broker must drop this client alone; whether it does is the caller's to check. Prints the rounds done.
 */

#include "base/fs.h"
#include "base/hash.h"
#include "shm/fab_client.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct Target {
    volatile uint64_t *words; /* the writable map of the session */
    size_t n;
    _Atomic bool stop;
    uint64_t seed;
} Target;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The memfd that we may write, found where the kernel lists it. */
static bool find_map(Target *t)
{
    char line[512];
    FILE *f = fopen("/proc/self/maps", "re");
    t->words = NULL;
    while (f && fgets(line, sizeof line, f)) {
        unsigned long from, to;
        char perms[8];
        if (strstr(line, "memfd:") && sscanf(line, "%lx-%lx %7s", &from, &to, perms) == 3 && perms[1] == 'w' && perms[3] == 's') {
            t->words = (volatile uint64_t *)from; /* NOLINT: the kernel's text is the only source */
            t->n = (to - from) / 8;
        }
    }
    if (f)
        fclose(f);
    return t->words != NULL;
}

static uint64_t nasty(Rng *r)
{
    static const uint64_t values[] = {0, 1, 60, 61, 63, 64, 65, 1023, 1024, 1025, 4096, 1 << 20, (1 << 20) - 1, UINT32_MAX, INT32_MAX,
                                      1ull << 32, INT64_MAX, 1ull << 63, UINT64_MAX, UINT64_MAX - 63};
    switch (rng_below(r, 3)) {
    case 0:
        return values[rng_below(r, ARRAY_SIZE(values))];
    case 1:
        return rng_next(r);
    default:
        return rng_below(r, 100000);
    }
}

static void *scribble(void *arg)
{
    Target *t = arg;
    Rng r;
    rng_init(&r, t->seed);
    while (!t->stop) {
        /* mostly the control words and the queue, which lie at the front */
        size_t span = rng_below(&r, 4) ? MIN(t->n, (size_t)(80 << 10) / 8) : t->n;
        size_t at = rng_below(&r, span);
        if (rng_below(&r, 8) == 0)
            at = rng_below(&r, 5) * CACHE_PAIR / 8;
        t->words[at] = rng_below(&r, 4) ? nasty(&r) : t->words[at] ^ (1ull << rng_below(&r, 64));
    }
    return NULL;
}

static void submit_garbage(FabClient *c, Rng *r)
{
    FabSqe sqe;
    uint64_t words[8];
    for (int i = 0; i < 8; i++)
        words[i] = nasty(r);
    memcpy(&sqe, words, sizeof sqe);
    sqe.op = (uint8_t)rng_below(r, FAB_OP_COUNT + 2);
    if (rng_below(r, 2)) { /* plausible enough to get past the first checks */
        memset(sqe.rsv1, 0, sizeof sqe.rsv1);
        sqe.rsv0 = 0;
        sqe.flags = (uint8_t)rng_below(r, 2);
        sqe.handle = (uint32_t)rng_below(r, 3);
        sqe.partition = (int32_t)rng_below(r, 6) - 1;
        sqe.off = rng_below(r, 1 << 20);
        sqe.len = (uint32_t)rng_below(r, 70000);
    }
    (void)fab_client_submit(c, &sqe);
    fab_client_flush(c);
}

static void session_round(const char *path, const char *topic, Rng *r)
{
    char why[256];
    FabClient *c = NULL;
    FabClientOptions o = {.socket_path = path, .role = FAB_ROLE_CLIENT, .client_id = "hostile", .timeout_ms = 2000};
    if (fab_client_new(&o, &c, why, sizeof why) < 0)
        return;
    void *name = fab_arena_alloc(c, (uint32_t)strlen(topic));
    if (name) {
        memcpy(name, topic, strlen(topic));
        FabSqe open = {.op = FAB_OP_OPEN, .len = (uint32_t)strlen(topic), .off = fab_arena_offset(c, name), .user_data = 1};
        (void)fab_client_submit(c, &open);
        fab_client_flush(c);
    }
    Target t = {.seed = rng_next(r)};
    pthread_t thread;
    if (find_map(&t) && pthread_create(&thread, NULL, scribble, &t) == 0) {
        double end = now_s() + 0.02;
        while (now_s() < end) {
            submit_garbage(c, r);
            FabCqe cqe;
            FabDelivery d;
            for (int i = 0; i < 16 && fab_client_reap(c, &cqe); i++)
                ;
            for (int i = 0; i < 16 && fab_client_next(c, &d); i++)
                if (rng_below(r, 2))
                    fab_client_release(c, d.release_at);
        }
        t.stop = true;
        pthread_join(thread, NULL);
    }
    fab_client_free(c);
}

static void socket_round(const char *path, Rng *r)
{
    uint8_t junk[4096];
    int fds[SOCK_FDS_MAX];
    int fd = sock_connect_unix(path, SOCK_SEQPACKET);
    if (fd < 0)
        return;
    for (size_t i = 0; i < sizeof junk; i++)
        junk[i] = (uint8_t)rng_next(r);
    FabHello hello = {.magic = FAB_MAGIC, .abi_major = FAB_ABI_MAJOR, .abi_minor = FAB_ABI_MINOR};
    if (rng_below(r, 2)) {
        hello.features = (uint32_t)nasty(r);
        hello.role = (uint32_t)rng_below(r, 4);
        hello.arena_size = (uint32_t)nasty(r);
        hello.delivery_size = (uint32_t)nasty(r);
        memset(hello.client_id, 'x', sizeof hello.client_id); /* no end */
        memcpy(junk, &hello, sizeof hello);
    }
    size_t n = rng_below(r, SOCK_FDS_MAX + 1), made = 0;
    for (; made < n; made++)
        if ((fds[made] = memfd_create("junk", MFD_CLOEXEC | MFD_ALLOW_SEALING)) < 0)
            break;
    (void)sock_send_fds(fd, junk, rng_below(r, 2) ? sizeof hello : rng_below(r, sizeof junk), fds, made);
    while (made > 0)
        close(fds[--made]);
    if (rng_below(r, 2))
        usleep(1000);
    close(fd);
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 64;
    Rng r;
    rng_init(&r, strtoull(argv[4], NULL, 10));
    double end = now_s() + atof(argv[3]);
    long rounds = 0;
    while (now_s() < end) {
        if (rng_below(&r, 3))
            session_round(argv[1], argv[2], &r);
        else
            socket_round(argv[1], &r);
        rounds++;
    }
    printf("%ld\n", rounds);
    return 0;
}
