/*
 * Both ends of a session in two threads, with random pauses around every fence of INV-FAB-1: a wake-up that is lost shows as a
 * wait that nothing ends, a missing release or acquire as a pattern that is not whole. Under ThreadSanitizer it also sees the
 * memory itself: the two ends are made to use the same addresses, since it does not know that two mappings are one memory.
 *
 * LEAT_LITMUS_SECONDS=N runs each test for N seconds instead of one.
 */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "shm/fab_client_private.h"
#include "shm/fab_server_private.h"
#include "tests/shm/rig.h"

#define WAIT_NS  (5 * NS_PER_S) /* longer than any pause, also on a busy machine; what is lost is lost for ever */
#define IN_FLIGHT 64

static Rig rig;
static FabClient *client;
static FabSession before; /* share_addresses() */
static _Atomic uint64_t arrived, met;
static _Atomic int64_t go_ns;
static atomic_bool stop;
static _Thread_local Rng pauses;
static bool no_pauses; /* between store, fence and load */

/* Mostly none, often a few instructions, seldom as long as the other side's whole turn. */
void FAB_PAUSE(void)
{
    if (no_pauses)
        return;
    uint64_t kind = rng_below(&pauses, 256);
    uint64_t spins = kind < 128 ? 0 : kind < 250 ? rng_below(&pauses, 100) : rng_below(&pauses, 20000);

    for (volatile uint64_t i = 0; i < spins; i++)
        ;
    if (kind == 255)
        sched_yield();
}

static int64_t deadline_ns(void)
{
    const char *seconds = getenv("LEAT_LITMUS_SECONDS");
    return clock_mono_ns() + (seconds ? atoi(seconds) : 1) * NS_PER_S;
}

/* One memory, one address, until the client's goes away. */
static void share_addresses(void)
{
    FabSession *s = rig.last;

    before = *s;
    s->in = client->out;
    s->sq = (const uint8_t *)client->sq;
    s->arena = client->arena;
    client->in = s->out;
    client->cq = (const FabCqe *)(const void *)s->cq;
    client->ring = s->ring.data;
}

static int check_and_answer(Rig *r UNUSED, FabSession *s, const FabSqe *sqe, const void *payload)
{
    ck_assert(has_pattern(payload, sqe->len, sqe->user_data));
    if (sqe->op == FAB_OP_REQUEST) {
        FabFrame frame = {.type = FAB_FRAME_RESPONSE, .tag = sqe->user_data, .size = sqe->len};
        (void)fab_session_send(s, &frame, payload);
        return 0;
    }
    fab_session_complete(s, &(FabCqe){.user_data = sqe->user_data, .kind = FAB_CQE_CONSUMED});
    fab_session_complete(s, &(FabCqe){.user_data = sqe->user_data, .kind = FAB_CQE_ACKED});
    return 0;
}

static void *serve(void *userdata)
{
    rng_init(&pauses, *(uint64_t *)userdata);
    while (!atomic_load(&stop)) {
        FAB_PAUSE();
        ck_assert_int_eq(loop_turn(rig.loop, 60 * NS_PER_S), 0); /* only a doorbell ends it */
    }
    return NULL;
}

static void nothing(void *userdata UNUSED) {}

static void part_addresses(void)
{
    rig.last->in = before.in;
    rig.last->sq = before.sq;
    rig.last->arena = before.arena;
}

static void setup(void)
{
    rng_init(&pauses, 1);
    rig_setup(&rig, NULL);
    rig.on_sqe = check_and_answer;
    client = rig_connect(&rig);
    share_addresses();
    atomic_store(&stop, false);
    atomic_store(&arrived, 0);
    atomic_store(&met, 0);
    no_pauses = false;
}

static void teardown(void)
{
    part_addresses();
    client = fab_client_free(client);
    rig_turn(&rig);
    ck_assert_uint_eq(fab_server_violations(rig.server), 0);
    rig_teardown(&rig);
}

static bool send_one(uint8_t op, uint64_t i)
{
    uint32_t size = 1 + (uint32_t)((i * 7919) % 3000);
    void *block = fab_arena_alloc(client, size);

    if (!block)
        return false;
    fill_pattern(block, size, i);
    FabSqe sqe = {.op = op, .acks = 1, .len = size, .off = fab_arena_offset(client, block), .user_data = i};
    if (fab_client_submit_block(client, &sqe, block) == 0)
        return true;
    fab_arena_free(client, block);
    return false;
}

/* Takes what is there. Return: answers, which come in order. */
static uint64_t take(uint64_t from)
{
    uint64_t at = from;
    FabDelivery d;
    FabCqe cqe;

    while (fab_client_reap(client, &cqe))
        if (cqe.kind == FAB_CQE_ACKED)
            ck_assert_uint_eq(cqe.user_data, at++);
    while (fab_client_next(client, &d)) {
        ck_assert_uint_eq(d.frame.tag, at++);
        ck_assert(has_pattern(d.payload, d.frame.size, d.frame.tag));
        fab_client_release(client, d.release_at);
    }
    return at;
}

/* Hand-overs in both directions, `most` at a time. */
static uint64_t hand_over(uint8_t op, uint64_t most)
{
    uint64_t sent = 0, answered = 0, seed = 2;
    int64_t end = deadline_ns();
    pthread_t thread;

    ck_assert_int_eq(pthread_create(&thread, NULL, serve, &seed), 0);
    while (clock_mono_ns() < end || answered < sent) {
        while (clock_mono_ns() < end && sent - answered < most && send_one(op, sent))
            sent++;
        if (rng_below(&pauses, 2))
            fab_client_flush(client);
        FAB_PAUSE();
        answered = take(answered);
        if (answered == sent || rng_below(&pauses, 4) == 0)
            continue;
        int64_t start = clock_mono_ns();
        ck_assert_int_eq(fab_client_wait(client, 2 * WAIT_NS), 0);
        ck_assert_msg(clock_mono_ns() - start < WAIT_NS, "a wake-up was lost after %llu hand-overs", (unsigned long long)answered);
    }
    atomic_store(&stop, true);
    ck_assert_int_eq(loop_post(rig.loop, nothing, NULL), 0);
    pthread_join(thread, NULL);
    return answered;
}

START_TEST(one_at_a_time)
{
    ck_assert_uint_gt(hand_over(_i ? FAB_OP_REQUEST : FAB_OP_PRODUCE, 1), 200);
}
END_TEST

START_TEST(many_at_a_time)
{
    ck_assert_uint_gt(hand_over(_i ? FAB_OP_REQUEST : FAB_OP_PRODUCE, IN_FLIGHT), 200);
}
END_TEST

/*
 * Store, fence, load on both sides at the same moment, over and over: one of the two must see the other, or both sleep. The
 * functions are the real ones. A missing second look shows at once; whether a missing fence does depends on the machine (two
 * hardware threads of one core share what it orders), so long runs belong on many cores.
 */
static void meet(uint64_t *round)
{
    uint64_t both = 2 * ++*round;

    if (atomic_fetch_add(&arrived, 1) + 1 == both) {
        atomic_store(&go_ns, clock_mono_ns() + 300); /* the time until the other sees it */
        atomic_store(&met, *round);
    }
    for (unsigned i = 0; atomic_load(&met) < *round; i++)
        if (i > 2000)
            sched_yield(); /* fewer cores than threads */
    int64_t until = atomic_load(&go_ns) + (int64_t)rng_below(&pauses, 100);
    while (clock_mono_ns() < until)
        ;
}

static bool broker_saw, broker_rang;

static void *broker_arms(void *userdata UNUSED)
{
    uint64_t round = 0;

    rng_init(&pauses, 3);
    while (!atomic_load(&stop)) {
        meet(&round);
        fab_session_arm(rig.last);
        fab_fence();
        broker_saw = fab_session_has_work(rig.last);
        meet(&round);
        fab_session_scan(rig.last);
    }
    return NULL;
}

static void *broker_rings(void *userdata UNUSED)
{
    uint64_t round = 0;

    rng_init(&pauses, 3);
    while (!atomic_load(&stop)) {
        uint64_t rung = rig.last->rung;
        meet(&round);
        fab_session_complete(rig.last, &(FabCqe){.kind = FAB_CQE_DONE});
        fab_fence();
        fab_session_ring(rig.last);
        broker_rang = rig.last->rung != rung;
        meet(&round);
    }
    return NULL;
}

static void client_submits(uint64_t *round)
{
    meet(round);
    ck_assert_int_eq(fab_client_submit(client, &(FabSqe){.op = FAB_OP_NOP}), 0);
    fab_client_flush(client);
    meet(round);
    ck_assert_msg(broker_saw || client->rung == rig.last->n_arms, "both sleep after %llu rounds", (unsigned long long)*round);
}

static void client_arms(uint64_t *round)
{
    FabCqe cqe;

    meet(round);
    bool sleeps = fab_client_arm(client);
    meet(round);
    ck_assert_msg(!sleeps || broker_rang, "both sleep after %llu rounds", (unsigned long long)*round);
    while (fab_client_reap(client, &cqe))
        ;
    (void)fab_client_process(client);
}

START_TEST(one_of_the_two_sees_the_other)
{
    uint64_t round = 0;
    pthread_t thread;

    no_pauses = true;
    rig.on_sqe = NULL;
    ck_assert_int_eq(pthread_create(&thread, NULL, _i ? broker_rings : broker_arms, NULL), 0);
    for (int64_t end = deadline_ns(); clock_mono_ns() < end;)
        _i ? client_arms(&round) : client_submits(&round);
    atomic_store(&stop, true);
    atomic_store(&met, UINT64_MAX); /* it may be waiting for one more round */
    pthread_join(thread, NULL);
    ck_assert_uint_gt(round, 200);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("litmus");
    TCase *tc = tcase_create("litmus");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 0);
    tcase_add_loop_test(tc, one_at_a_time, 0, 2);
    tcase_add_loop_test(tc, many_at_a_time, 0, 2);
    tcase_add_loop_test(tc, one_of_the_two_sees_the_other, 0, 2);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
