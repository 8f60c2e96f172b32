/* Clients in processes of their own: killed, stopped, forked, many; and wake-ups that must not be lost. */

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/shm/rig.h"

#ifdef __SANITIZE_THREAD__
#    define STEPS_COUNT false
#else
#    define STEPS_COUNT true
#endif

static Rig rig;
static unsigned fds_before;

static void setup(void)
{
    fds_before = count_fds();
    rig_setup(&rig, NULL);
}

static void teardown(void)
{
    for (int i = 0; i < 200 && fab_server_sessions(rig.server) > 0; i++)
        ck_assert_int_eq(loop_turn(rig.loop, 10 * NS_PER_MS), 0);
    ck_assert_uint_eq(fab_server_sessions(rig.server), 0);
    ck_assert_uint_eq(fab_server_memory(rig.server), 0);
    ck_assert_uint_eq(fab_server_violations(rig.server), 0);
    rig_teardown(&rig);
    ck_assert_uint_eq(count_fds(), fds_before);
}

static void spin(uint64_t ns)
{
    int64_t until = clock_mono_ns() + (int64_t)ns;
    while (clock_mono_ns() < until)
        ;
}

static int produce_one(FabClient *c, uint32_t size, uint64_t seed)
{
    void *block = fab_arena_alloc(c, size);
    if (!block)
        return -EAGAIN;
    fill_pattern(block, size, seed);
    FabSqe sqe = {.op = FAB_OP_PRODUCE,
                  .acks = 1,
                  .len = size,
                  .off = fab_arena_offset(c, block),
                  .user_data = seed};
    int r = fab_client_submit_block(c, &sqe, block);
    if (r < 0)
        fab_arena_free(c, block);
    return r;
}

/* ---- echo ---- */

static void echo_client(const char *path, uint64_t n)
{
    FabClient *c = rig_join(path);
    uint64_t sent = 0, acked = 0;
    FabCqe cqe;

    while (acked < n) {
        while (sent < n && sent - acked < 256 && produce_one(c, 2000, sent) == 0)
            sent++;
        fab_client_flush(c);
        while (fab_client_reap(c, &cqe))
            if (cqe.kind == FAB_CQE_ACKED)
                REQUIRE(cqe.user_data == acked++);
        int r = acked < sent ? fab_client_wait(c, 5 * NS_PER_S) : 0;
        REQUIRE(r == 0 || r == -EINTR); /* SIGCONT interrupts */
    }
    fab_client_free(c);
}

static int check_echo(Rig *r UNUSED, FabSession *s, const FabSqe *sqe, const void *payload)
{
    ck_assert(has_pattern(payload, sqe->len, sqe->user_data));
    fab_session_complete(s, &(FabCqe){.user_data = sqe->user_data, .kind = FAB_CQE_CONSUMED});
    fab_session_complete(s, &(FabCqe){.user_data = sqe->user_data, .kind = FAB_CQE_ACKED});
    return 0;
}

START_TEST(produce_from_another_process)
{
    rig.on_sqe = check_echo;
    int status = rig_serve_until_exit(&rig, rig_fork(&rig, echo_client, 50000));
    ck_assert_int_eq(status, 0);
    ck_assert_uint_eq(rig.n_sqes, 50000);
}
END_TEST

static void stream_client(const char *path, uint64_t n)
{
    FabClient *c = rig_join(path);
    FabSqe sqe = {.op = FAB_OP_SUBSCRIBE, .user_data = n, .timeout_ms = 9000};
    uint64_t got = 0;
    FabDelivery d;

    REQUIRE(fab_client_submit(c, &sqe) == 0);
    while (got < n) {
        while (fab_client_next(c, &d)) {
            REQUIRE(d.frame.tag == got && d.frame.size == 9000 &&
                    has_pattern(d.payload, 9000, got));
            got++;
            fab_client_release(c, d.release_at);
            fab_client_flush(c);
        }
        FabCqe cqe;
        while (fab_client_reap(c, &cqe))
            ;
        if (got < n)
            REQUIRE(fab_client_wait(c, 5 * NS_PER_S) == 0);
    }
    fab_client_free(c);
}

START_TEST(consume_in_another_process)
{
    int status = rig_serve_until_exit(&rig, rig_fork(&rig, stream_client, 5000));
    ck_assert_int_eq(status, 0);
}
END_TEST

/* ---- wake-ups ---- */

/* Requests one at a time with random pauses, so that both sides fall asleep at every moment of the other's turn. */
static void ping_client(const char *path, uint64_t n)
{
    FabClient *c = rig_join(path);
    FabDelivery d;
    Rng rng;

    rng_init(&rng, 5);
    for (uint64_t i = 0; i < n; i++) {
        FabSqe sqe = {.op = FAB_OP_REQUEST, .user_data = i};
        spin(rng_below(&rng, 30000));
        REQUIRE(fab_client_submit(c, &sqe) == 0);
        if (rng_below(&rng, 2))
            fab_client_flush(c);
        spin(rng_below(&rng, 5000));
        while (!fab_client_next(c, &d)) {
            int64_t before = clock_mono_ns();
            REQUIRE(fab_client_wait(c, 3 * NS_PER_S) == 0);
            REQUIRE(clock_mono_ns() - before < 2 * NS_PER_S);
        }
        REQUIRE(d.frame.tag == i);
        fab_client_release(c, d.release_at);
    }
    fab_client_free(c);
}

START_TEST(no_wake_up_is_lost)
{
    Rng rng;
    int status;

    rng_init(&rng, 6);
    pid_t pid = rig_fork(&rig, ping_client, 12000);
    for (;;) { /* sleeps long: only a doorbell makes it come back in time */
        ck_assert_int_eq(loop_turn(rig.loop, 4 * NS_PER_S), 0);
        spin(rng_below(&rng, 8000));
        if (rig.n_closed > 0)
            break;
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
}
END_TEST

/* ---- death ---- */

/* Does everything at once, for ever: batches, large ones, answers held, frames held, more arena asked for. */
static void busy_client(const char *path, uint64_t seed)
{
    static uint8_t big[300000];
    FabClient *c = rig_join(path);
    FabSqe sqe = {.op = FAB_OP_SUBSCRIBE, .user_data = 1u << 20, .timeout_ms = 3000};
    FabSqe large = {.op = FAB_OP_REQUEST};
    uint64_t i = 0;

    (void)fab_client_submit(c, &sqe);
    for (;; i++) {
        FabDelivery d;
        FabCqe cqe;

        while (produce_one(c, 1 + (uint32_t)((i * 7919 + seed) % 40000), i) == 0 && i % 16 != 0)
            i++;
        if (i % 5 == 0)
            (void)fab_client_submit_memfd(c, &large, big, sizeof(big));
        fab_client_flush(c);
        for (int k = 0; k < 20 && fab_client_next(c, &d); k++)
            fab_client_release(c, d.release_at);
        while (fab_client_reap(c, &cqe))
            ;
        if (i % 7 == 0)
            REQUIRE(fab_client_wait(c, NS_PER_MS) == 0);
    }
}

static int check_batch(Rig *r, FabSession *s, const FabSqe *sqe, const void *payload)
{
    if (sqe->op ==
        FAB_OP_PRODUCE) { /* a batch that is there is whole, whenever its producer died */
        ck_assert(has_pattern(payload, sqe->len, sqe->user_data));
        r->n_produced++;
        return check_echo(r, s, sqe, payload);
    }
    if (sqe->op == FAB_OP_REQUEST) {
        (void)fab_session_send(s, &(FabFrame){.type = FAB_FRAME_RESPONSE, .size = sqe->len},
                               payload);
        return 0;
    }
    *(Stream *)fab_session_userdata(s) = (Stream){.n = sqe->user_data, .size = sqe->timeout_ms};
    fab_session_complete(s, &(FabCqe){.kind = FAB_CQE_DONE});
    rig_stream(r, s);
    return 0;
}

START_TEST(killed_at_any_moment)
{
    Rng rng;

    rng_init(&rng, 11);
    rig.on_sqe = check_batch;
    for (unsigned i = 0; i < 250 || (i < 4000 && (rig.n_opened <= 125 || rig.n_produced <= 1000)); i++) { /* slow: more */
        pid_t pid = rig_fork(&rig, busy_client, i);
        /* From before HELLO to the midst of its work, which half of them reach however slow the machine is. */
        for (unsigned n = rig.n_opened; i % 4 < 2 && rig.n_opened == n;)
            ck_assert_int_eq(loop_turn(rig.loop, NS_PER_MS), 0);
        int64_t until = clock_mono_ns() + (int64_t)rng_below(&rng, 3 * NS_PER_MS);
        while (clock_mono_ns() < until)
            ck_assert_int_eq(loop_turn(rig.loop, 200 * NS_PER_US), 0);
        ck_assert_int_eq(kill(pid, SIGKILL), 0);
        if (i % 2)
            rig_turn(&rig); /* before it is reaped, and after */
        ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    }
    for (int i = 0; i < 100 && rig.n_closed < rig.n_opened; i++)
        ck_assert_int_eq(loop_turn(rig.loop, NS_PER_MS), 0);
    ck_assert_uint_eq(rig.n_closed, rig.n_opened);
    ck_assert_uint_gt(rig.n_opened, 125);
    ck_assert_uint_gt(rig.n_produced, 1000);
}
END_TEST

/* ---- every instruction of a produce is a place to die ---- */

static void stepped_client(const char *path, uint64_t size)
{
    FabClient *c = rig_join(path);

    REQUIRE(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
    (void)raise(SIGSTOP);
    (void)produce_one(c, (uint32_t)size, 1);
    fab_client_flush(c);
    (void)raise(SIGUSR1);
    pause();
}

/* Lets the client take so many steps from its first stop, then kills it. Return: steps taken, fewer when it was through. */
static unsigned kill_after(unsigned steps)
{
    pid_t pid = rig_fork(&rig, stepped_client, 24);
    unsigned taken = 0;
    int status = 0;

    while (waitpid(pid, &status, WNOHANG | WUNTRACED) == 0)
        ck_assert_int_eq(loop_turn(rig.loop, NS_PER_MS), 0);
    for (; taken < steps && WIFSTOPPED(status) && WSTOPSIG(status) != SIGUSR1; taken++) {
        ck_assert_int_eq(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    }
    ck_assert(WIFSTOPPED(status));
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    for (int i = 0; i < 1000 && rig.n_closed < rig.n_opened; i++)
        ck_assert_int_eq(loop_turn(rig.loop, NS_PER_MS), 0);
    return taken;
}

START_TEST(killed_at_every_instruction)
{
    unsigned total = kill_after(UINT_MAX), stride = total < 3000 ? 1 : total / 60, before = 0; /* with a sanitizer in it: some of them */

    ck_assert_uint_gt(total, 100);
    rig.on_sqe = check_batch; /* what is there is whole */
    for (unsigned steps = 0; steps < total; steps += stride) {
        rig.n_produced = 0;
        (void)kill_after(steps);
        ck_assert_uint_ge(rig.n_produced, before); /* published by one instruction: not there before it, there after it */
        before = rig.n_produced;
    }
    ck_assert_uint_eq(before, 1);
    ck_assert_uint_eq(rig.n_closed, rig.n_opened);
}
END_TEST

/* A stopped client is not a dead one: nothing of it is taken away, others go on, and it continues where it was. */
START_TEST(stopped_is_not_dead)
{
    pid_t stopped = rig_fork(&rig, echo_client, 3000);
    for (int i = 0; i < 200 && rig.n_produced < 300; i++)
        ck_assert_int_eq(loop_turn(rig.loop, NS_PER_MS), 0);
    ck_assert_int_eq(kill(stopped, SIGSTOP), 0);
    unsigned at = rig.n_produced;
    ck_assert_int_eq(rig_serve_until_exit(&rig, rig_fork(&rig, echo_client, 2000)), 0);
    ck_assert_uint_ge(rig.n_produced, at + 2000);
    ck_assert_uint_eq(fab_server_sessions(rig.server), 1);
    ck_assert_int_eq(kill(stopped, SIGCONT), 0);
    ck_assert_int_eq(rig_serve_until_exit(&rig, stopped), 0);
    ck_assert_uint_eq(rig.n_produced, 5000);
}
END_TEST

/* ---- fork ---- */

static void forking_client(const char *path, uint64_t mode)
{
    FabClient *c = rig_join(path);
    void *block = fab_arena_alloc(c, 1000);
    int status;

    REQUIRE(block != NULL);
    pid_t pid = fork();
    if (pid == 0) {
        FabCqe cqe;
        FabDelivery d;
        FabSqe sqe = {.op = FAB_OP_NOP};

        REQUIRE(fab_client_submit(c, &sqe) == -ECHILD);
        REQUIRE(fab_client_process(c) == -ECHILD);
        REQUIRE(fab_client_wait(c, 0) == -ECHILD);
        REQUIRE(fab_arena_alloc(c, 10) == NULL);
        REQUIRE(!fab_client_reap(c, &cqe) && !fab_client_next(c, &d) && !fab_client_arm(c));
        fab_arena_free(c, block);
        fab_client_flush(c);
        fab_client_touch_progress(c);
        uint8_t in_core;
        void *page = (void *)((uintptr_t)block & ~4095ul);
        REQUIRE(mincore(page, 4096, &in_core) == -1 && errno == ENOMEM); /* not mapped here */
        if (mode == 1) {
            alarm(10);
            pause(); /* outlives the parent, socket and all */
        }
        fab_client_free(c);
        _exit(0);
    }
    if (mode == 1)
        _exit(0);
    REQUIRE(waitpid(pid, &status, 0) == pid && status == 0);
    /* the child came and went; the session is as it was */
    FabSqe sqe = {.op = FAB_OP_PRODUCE,
                  .acks = 1,
                  .len = 1000,
                  .off = fab_arena_offset(c, block),
                  .user_data = 1};
    FabCqe cqe;
    REQUIRE(fab_client_submit(c, &sqe) == 0);
    while (!fab_client_reap(c, &cqe))
        REQUIRE(fab_client_wait(c, 5 * NS_PER_S) == 0);
    fab_client_free(c);
}

START_TEST(fork_in_a_client)
{
    ck_assert_int_eq(rig_serve_until_exit(&rig, rig_fork(&rig, forking_client, 0)), 0);
    ck_assert_uint_eq(rig.n_produced, 1);
}
END_TEST

/* The parent dies, its child lives on with a copy of the socket: the session ends with the parent. */
START_TEST(child_keeps_the_socket)
{
    ck_assert_int_eq(rig_serve_until_exit(&rig, rig_fork(&rig, forking_client, 1)), 0);
    for (int i = 0; i < 100 && rig.n_closed == 0; i++)
        ck_assert_int_eq(loop_turn(rig.loop, 10 * NS_PER_MS), 0);
    ck_assert_uint_eq(rig.n_closed, 1);
    ck_assert_ptr_nonnull(strstr(rig.last_why, "process"));
}
END_TEST

/* ---- many ---- */

static long resident_shared_kib(void)
{
    long kib = 0;
    char line[256];
    FILE *f = fopen("/proc/self/status", "re");

    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "RssShmem: %ld", &kib) == 1)
            break;
    fclose(f);
    return kib;
}

static long memory_used_kib(void)
{
    long total = 0;
    char line[256];
    FILE *f = fopen("/proc/meminfo", "re");

    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "Shmem: %ld", &total) == 1)
            break;
    fclose(f);
    return total;
}

START_TEST(a_thousand_idle_sessions)
{
    enum { N = 1000 };
    static FabClient *clients[N];
    struct rlimit limit;

    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_cur < 10000) /* both ends are in this process */
        return;
    long before = memory_used_kib();
    for (int i = 0; i < N; i++) {
        FabClientOptions o = {.socket_path = rig.path, .client_id = "idle"};
        ck_assert_int_eq(fab_client_begin(&o, &clients[i]), 0);
        for (int turn = 0; turn < 3; turn++)
            ck_assert_int_eq(loop_turn(rig.loop, 0), 0);
        ck_assert_int_eq(fab_client_finish(clients[i], NULL, 0), 0);
    }
    long used = memory_used_kib() - before;
    ck_assert_uint_eq(fab_server_sessions(rig.server), N);
    ck_assert_msg(used < N * 1000L, "%ld KiB of shared memory", used);
    ck_assert_int_lt(resident_shared_kib(), N * 1000L);

    /* all cold, none costs a turn */
    rig_turn(&rig);
    int64_t start = clock_mono_ns();
    for (int i = 0; i < 100; i++)
        ck_assert_int_eq(loop_turn(rig.loop, 1), 0);
    ck_assert_int_lt(clock_mono_ns() - start, 100 * NS_PER_MS);

    /* each is still found by its doorbell */
    for (int i = 0; i < N; i += 37) {
        FabSqe sqe = {.op = FAB_OP_NOP};
        unsigned n = rig.n_sqes;
        ck_assert_int_eq(fab_client_submit(clients[i], &sqe), 0);
        fab_client_flush(clients[i]);
        rig_turn(&rig);
        ck_assert_uint_eq(rig.n_sqes, n + 1);
    }
    for (int i = 0; i < N; i++)
        fab_client_free(clients[i]);
}
END_TEST

/* Out of descriptors the server waits, without spinning, and goes on when there are some. */
START_TEST(out_of_descriptors)
{
    struct rlimit limit, low;
    FabClient *c = NULL;
    FabClientOptions o = {.socket_path = rig.path, .client_id = "x"};

    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    ck_assert_int_eq(fab_client_begin(&o, &c), 0);
    low = limit;
    int next = dup(0);
    ck_assert_int_ge(next, 0);
    close(next);
    low.rlim_cur = (rlim_t)next; /* the next one is too many */
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
    int64_t start = clock_mono_ns();
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(loop_turn(rig.loop, 20 * NS_PER_MS), 0);
    ck_assert_int_gt(clock_mono_ns() - start, 30 * NS_PER_MS);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    for (int i = 0; i < 40 && rig.n_opened == 0; i++)
        ck_assert_int_eq(loop_turn(rig.loop, 10 * NS_PER_MS), 0);
    ck_assert_int_eq(fab_client_finish(c, NULL, 0), 0);
    fab_client_free(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("process");
    TCase *tc = tcase_create("process");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, produce_from_another_process);
    tcase_add_test(tc, consume_in_another_process);
    tcase_add_test(tc, no_wake_up_is_lost);
    tcase_add_test(tc, killed_at_any_moment);
    tcase_add_test(tc, stopped_is_not_dead);
    tcase_add_test(tc, fork_in_a_client);
    tcase_add_test(tc, child_keeps_the_socket);
    tcase_add_test(tc, a_thousand_idle_sessions);
    tcase_add_test(tc, out_of_descriptors);
    suite_add_tcase(suite, tc);
    TCase *stepped = tcase_create("stepped");
    tcase_add_checked_fixture(stepped, setup, teardown);
    tcase_set_timeout(stepped, 120);
    if (STEPS_COUNT)
        tcase_add_test(stepped, killed_at_every_instruction);
    else
        puts("# killed_at_every_instruction: not under TSan, whose own instructions are not the same number in every run");
    suite_add_tcase(suite, stepped);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
