/*
 * What the kernel lets a peer do with the memory and the descriptors of a session, tried by one that does not use our
 * library. As root the peer is another uid, as it would be in earnest (D14); otherwise the same one, and the rows that only
 * a foreign uid is refused are left out.
 */

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "shm/fab_memfd.h"
#include "tests/shm/rig.h"

#define NOBODY 65534

static Rig rig;

static void setup(void)
{
    rig_setup(&rig, NULL);
}

static void teardown(void)
{
    rig_teardown(&rig);
}

typedef struct Raw {
    int socket, fds[FAB_WELCOME_FDS];
    FabWelcome w;
    bool foreign;
} Raw;

static bool become_nobody(void)
{
    if (getuid() != 0)
        return false;
    REQUIRE(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
    REQUIRE(prctl(PR_SET_DUMPABLE, 1) == 0); /* or /proc/self/fd would be root's */
    return true;
}

static Raw raw_open(const char *path)
{
    Raw raw = {0};
    FabHello hello = {.magic = FAB_MAGIC, .abi_major = FAB_ABI_MAJOR, .abi_minor = FAB_ABI_MINOR};
    size_t n_fds = FAB_WELCOME_FDS;

    raw.foreign = become_nobody();
    raw.socket = sock_connect_unix(path, SOCK_SEQPACKET);
    REQUIRE(raw.socket >= 0);
    REQUIRE(send(raw.socket, &hello, sizeof(hello), 0) == sizeof(hello));
    REQUIRE(sock_recv_fds(raw.socket, &raw.w, sizeof(raw.w), raw.fds, &n_fds) == sizeof(raw.w));
    REQUIRE(n_fds == FAB_WELCOME_FDS);
    return raw;
}

static int reopen(int fd, int flags)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, flags | O_CLOEXEC);
}

#define REFUSED(x)                                                                                 \
    do {                                                                                           \
        errno = 0;                                                                                 \
        REQUIRE((x) == -1);                                                                        \
        REQUIRE(errno == EPERM || errno == EACCES || errno == EBADF);                              \
    } while (0)

/* D, and every ring after it, may only be read. */
static void attack_d(const char *path, uint64_t argument UNUSED)
{
    Raw raw = raw_open(path);
    int d = raw.fds[FAB_FD_D];
    size_t size = (size_t)raw.w.delivery_offset + raw.w.delivery_size;
    char byte = 1;

    REQUIRE(fcntl(d, F_GET_SEALS) >= 0);
    REQUIRE((fcntl(d, F_GET_SEALS) & 0x1f) == FAB_SEALS_D);
    REQUIRE(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, d, 0) == MAP_FAILED &&
            errno == EPERM);
    void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, d, 0);
    REQUIRE(map != MAP_FAILED);
    const FabBrokerPage *page = map;
    REQUIRE(atomic_load(&page->epoch) == 77);
    REFUSED(mprotect(map, size, PROT_READ | PROT_WRITE));
    REFUSED(madvise(map, size, MADV_REMOVE));
    REFUSED(pwrite(d, &byte, 1, 0));
    REFUSED(ftruncate(d, 0));
    REFUSED(ftruncate(d, (off_t)(2 * size)));
    REFUSED(fallocate(d, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
    REFUSED(fallocate(d, 0, 0, (off_t)(2 * size)));
    REFUSED(fcntl(d, F_ADD_SEALS, F_SEAL_WRITE));
    if (raw.foreign)
        REFUSED(reopen(d, O_RDWR));
    int again = reopen(d, O_RDWR); /* ours, or the same uid: the seals hold all the same */
    if (again >= 0) {
        REQUIRE(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0) == MAP_FAILED);
        REFUSED(pwrite(again, &byte, 1, 0));
    }
    /* A private copy is no hole. */
    REQUIRE(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, d, 0) != MAP_FAILED);
}

/* C is the client's to write, but neither to shrink, nor to grow, nor to seal. */
static void attack_c(const char *path, uint64_t argument UNUSED)
{
    Raw raw = raw_open(path);
    int c = raw.fds[FAB_FD_C];
    size_t size = (size_t)raw.w.arena_offset + raw.w.arena_size;

    REQUIRE((fcntl(c, F_GET_SEALS) & 0x1f) == FAB_SEALS_C);
    FabClientPage *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, c, 0);
    REQUIRE(page != MAP_FAILED);
    REFUSED(ftruncate(c, 0));
    REFUSED(ftruncate(c, (off_t)(2 * size)));
    REFUSED(fcntl(c, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
    if (raw.foreign)
        REFUSED(reopen(c, O_RDWR));
    /* Holes: the broker reads zeros, not SIGBUS. The queue says one descriptor; its page and its payload are gone. */
    FabSqe *sqe = (FabSqe *)(void *)((uint8_t *)page + FAB_PAGE);
    *sqe = (FabSqe){.op = FAB_OP_PRODUCE, .len = 100000, .off = 0, .user_data = 1};
    memset((uint8_t *)page + raw.w.arena_offset, 1, 100000);
    REQUIRE(fallocate(c, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, raw.w.arena_offset,
                      raw.w.arena_size) == 0);
    atomic_store(&page->sq_tail, 1);
    uint64_t one = 1;
    REQUIRE(write(raw.fds[FAB_FD_DOORBELL], &one, 8) == 8);
    void *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, raw.fds[FAB_FD_D], 0);
    REQUIRE(map != MAP_FAILED);
    const FabBrokerPage *broker = map;
    for (int i = 0; i < 2000 && atomic_load(&broker->sq_head) == 0; i++)
        (void)poll(NULL, 0, 1);
    REQUIRE(atomic_load(&broker->sq_head) == 1);
}

/* The broker's eventfd is out of reach behind the epoll set; ours may be filled to the brim and made blocking. */
static void attack_doorbells(const char *path, uint64_t argument UNUSED)
{
    Raw raw = raw_open(path);
    int wakeup = raw.fds[FAB_FD_WAKEUP], doorbell = raw.fds[FAB_FD_DOORBELL];
    uint64_t word = 1, brim = UINT64_MAX - 1;

    errno = 0;
    REQUIRE(write(wakeup, &word, 8) == -1 && errno == EINVAL);
    REQUIRE(read(wakeup, &word, 8) == -1 && errno == EINVAL);
    REQUIRE(write(doorbell, &brim, 8) == 8);
    REQUIRE(write(doorbell, &word, 8) == -1 && errno == EAGAIN);
    REQUIRE(fcntl(doorbell, F_SETFL, 0) == 0 && fcntl(wakeup, F_SETFL, 0) == 0);
    (void)poll(NULL, 0, 20);
}

static void run(void (*attack)(const char *, uint64_t))
{
    ck_assert_int_eq(chmod(rig.dir, 0755), 0);
    int status = rig_serve_until_exit(&rig, rig_fork(&rig, attack, 0));
    ck_assert_int_eq(status, 0);
    ck_assert_uint_eq(fab_server_sessions(rig.server), 0);
    ck_assert_uint_eq(fab_server_memory(rig.server), 0);
}

START_TEST(d_is_read_only)
{
    run(attack_d);
}
END_TEST

START_TEST(c_keeps_its_size)
{
    run(attack_c);
    ck_assert_uint_eq(rig.n_produced, 1);
    ck_assert_uint_eq(rig.produced_bytes, 100000);
}
END_TEST

START_TEST(doorbells_block_nobody)
{
    run(attack_doorbells);
}
END_TEST

/* ---- memory that a client sends ---- */

typedef enum Fake {
    HONEST,
    UNSEALED,
    HALF_SEALED,
    TOO_SEALED,
    WRONG_SIZE,
    HUGE,
    PIPE,
    REGULAR,
    NO_FD,
    TWO_FDS,
    FAKES
} Fake;

static int make_fake(Fake fake, int seals, uint64_t size)
{
    int pair[2], fd;

    switch (fake) {
    case PIPE:
        REQUIRE(pipe(pair) == 0);
        return pair[0];
    case REGULAR:
        fd = open("/proc/self/exe", O_RDONLY);
        REQUIRE(fd >= 0);
        return fd;
    case HUGE:
        fd = memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
        if (fd >= 0 && ftruncate(fd, 2 << 20) == 0) {
            REQUIRE(fab_memfd_seal(fd, seals) == 0);
            return fd;
        }
        return fab_memfd_new("huge", size + 4096,
                             false); /* no such kernel: another that must be refused */
    case HONEST:
    case UNSEALED:
    case HALF_SEALED:
    case TOO_SEALED:
    case WRONG_SIZE:
    case NO_FD:
    case TWO_FDS:
    case FAKES:
        break;
    }
    fd = fab_memfd_new("fake", fake == WRONG_SIZE ? size - 4096 : size, true);
    REQUIRE(fd >= 0);
    if (fake == HALF_SEALED)
        seals &= ~F_SEAL_SHRINK;
    if (fake == TOO_SEALED)
        seals ^= F_SEAL_WRITE;
    if (fake != UNSEALED)
        REQUIRE(fab_memfd_seal(fd, seals) == 0);
    return fd;
}

static void send_memory(Raw *raw, Fake fake, uint16_t kind)
{
    uint64_t size = fake == HUGE ? 2u << 20 : 1u << 20;
    FabControl control = {.magic = FAB_MAGIC, .kind = kind, .size = size};
    int fds[2];

    fds[0] = make_fake(fake, kind == FAB_CONTROL_ARENA ? FAB_SEALS_C : FAB_SEALS_PAYLOAD, size);
    fds[1] = fds[0];
    size_t n = fake == NO_FD ? 0 : fake == TWO_FDS ? 2 : 1;
    REQUIRE(sock_send_fds(raw->socket, &control, sizeof(control), fds, n) == 0);
}

/* Exactly sealed memory is taken, everything else ends the session. */
static void attack_memory(const char *path, uint64_t argument)
{
    Fake fake = (Fake)(argument >> 8);
    uint16_t kind = argument & 0xff;
    Raw raw = raw_open(path);
    FabControl answer = {0};
    struct pollfd p = {.fd = raw.socket, .events = POLLIN};

    send_memory(&raw, fake, kind);
    if (fake == HONEST && kind == FAB_CONTROL_PAYLOAD) {
        REQUIRE(poll(&p, 1, 30) == 0); /* kept, nothing to say */
        return;
    }
    REQUIRE(poll(&p, 1, 3000) == 1);
    REQUIRE(recv(raw.socket, &answer, sizeof(answer), 0) == sizeof(answer));
    if (fake == HONEST) {
        REQUIRE(answer.kind == FAB_CONTROL_ARENA_REPLY && answer.error == 0 &&
                answer.size == 2u << 20);
    } else {
        REQUIRE(answer.kind == FAB_CONTROL_CLOSED && answer.error == -EPROTO);
        REQUIRE(recv(raw.socket, &answer, sizeof(answer), 0) == 0);
    }
}

START_TEST(only_sealed_memory_is_taken)
{
    Fake fake = (Fake)(_i / 2);
    uint64_t kind = _i % 2 ? FAB_CONTROL_ARENA : FAB_CONTROL_PAYLOAD;

    ck_assert_int_eq(chmod(rig.dir, 0755), 0);
    unsigned fds = count_fds();
    int status =
        rig_serve_until_exit(&rig, rig_fork(&rig, attack_memory, (uint64_t)fake << 8 | kind));
    ck_assert_int_eq(status, 0);
    ck_assert_uint_eq(fab_server_violations(rig.server), fake != HONEST);
    for (int i = 0; i < 50 && count_fds() != fds; i++)
        (void)poll(NULL, 0, 1); /* a pipe is closed by a thread */
    ck_assert_uint_eq(count_fds(), fds);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("seals");
    TCase *tc = tcase_create("seals");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 10);
    tcase_add_test(tc, d_is_read_only);
    tcase_add_test(tc, c_keeps_its_size);
    tcase_add_test(tc, doorbells_block_nobody);
    tcase_add_loop_test(tc, only_sealed_memory_is_taken, 0, 2 * FAKES);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
