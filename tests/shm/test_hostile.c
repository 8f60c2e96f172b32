/*
 * A client that owns its memory and its socket and means harm: every lie it can tell in a word, one by one, and then all
 * words changing under the broker's eyes. The broker loses that session and nothing else.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "shm/fab_client_private.h"
#include "shm/fab_memfd.h"
#include "tests/shm/rig.h"

static Rig rig;
static FabClient *c, *other;

static void setup(void)
{
    rig_setup(&rig, NULL);
    other = rig_connect(&rig);
    c = rig_connect(&rig);
}

static void teardown(void)
{
    c = fab_client_free(c);
    other = fab_client_free(other);
    rig_turn(&rig);
    ck_assert_uint_eq(fab_server_memory(rig.server), 0);
    rig_teardown(&rig);
}

static void doorbell(FabClient *client)
{
    uint64_t one = 1;
    ck_assert_int_eq(write(client->doorbell_fd, &one, 8), 8);
}

static void submit_raw(const FabSqe *sqe)
{
    c->sq[c->sq_tail & c->sq_mask] = *sqe;
    atomic_store(&c->out->sq_tail, ++c->sq_tail);
}

static void expect(bool dropped)
{
    doorbell(c);
    rig_turn(&rig);
    ck_assert_uint_eq(fab_server_violations(rig.server), dropped);
    ck_assert_uint_eq(fab_server_sessions(rig.server), dropped ? 1 : 2);
    ck_assert_int_eq(fab_client_process(c), dropped ? -ECONNRESET : 0);
    if (dropped)
        ck_assert_ptr_nonnull(strstr(fab_client_why(c), "breach"));
    /* the neighbour is served as before */
    FabSqe sqe = {.op = FAB_OP_REQUEST, .user_data = 1};
    FabDelivery d;
    ck_assert_int_eq(fab_client_submit(other, &sqe), 0);
    fab_client_flush(other);
    rig_turn(&rig);
    ck_assert(fab_client_next(other, &d));
}

#define ARENA FAB_ARENA_DEFAULT
static const struct {
    FabSqe sqe;
    bool dropped;
} descriptors[] = {
    {{.op = FAB_OP_PRODUCE, .off = 0, .len = ARENA},                false},
    {{.op = FAB_OP_PRODUCE, .off = ARENA - 1, .len = 1},            false},
    {{.op = FAB_OP_PRODUCE, .off = ARENA, .len = 0},                false},
    {{.op = FAB_OP_PRODUCE, .off = UINT64_MAX, .len = 0},           false}, /* no payload, no place */
    {{.op = FAB_OP_PRODUCE, .off = 0, .len = ARENA + 1},            true },
    {{.op = FAB_OP_PRODUCE, .off = 0, .len = UINT32_MAX},           true },
    {{.op = FAB_OP_PRODUCE, .off = ARENA, .len = 1},                true },
    {{.op = FAB_OP_PRODUCE, .off = ARENA - 1, .len = 2},            true },
    {{.op = FAB_OP_PRODUCE, .off = UINT64_MAX, .len = 1},           true },
    {{.op = FAB_OP_PRODUCE, .off = UINT64_MAX - 9, .len = 10},      true },
    {{.op = FAB_OP_PRODUCE, .off = 1ull << 63, .len = 61},          true },
    {{.op = FAB_OP_COUNT},                                          true },
    {{.op = 255},                                                   true },
    {{.op = FAB_OP_RESPONSE},                                       true },
    {{.op = FAB_OP_NOTIFY},                                         true },
    {{.op = FAB_OP_NOP, .flags = 0x80},                             true },
    {{.op = FAB_OP_NOP, .rsv0 = 1},                                 true },
    {{.op = FAB_OP_NOP, .rsv1 = {1, 0, 0}},                         true },
    {{.op = FAB_OP_NOP, .rsv1 = {0, 0, 1ull << 63}},                true },
    {{.op = FAB_OP_REQUEST, .flags = FAB_SQE_IN_MEMFD, .len = 100}, true }, /* none was sent */
    {{.op = FAB_OP_REQUEST, .flags = FAB_SQE_IN_MEMFD, .len = 0},   true },
    {{.op = FAB_OP_NOP},                                            false},
};

START_TEST(descriptors_are_checked)
{
    submit_raw(&descriptors[_i].sqe);
    expect(descriptors[_i].dropped);
    ck_assert_uint_eq(rig.n_sqes, descriptors[_i].dropped ? 1 : 2);
}
END_TEST

static const struct {
    uint64_t value;
    bool dropped;
} tails[] = {
    {FAB_SQ_ENTRIES_DEFAULT + 1, true },
    {UINT64_MAX,                 true },
    {1ull << 63,                 true },
    {FAB_SQ_ENTRIES_DEFAULT,     false},
    {0,                          false},
};

START_TEST(tail_jumps)
{
    atomic_store(&c->out->sq_tail, tails[_i].value);
    expect(tails[_i].dropped);
}
END_TEST

static const uint64_t positions[] = {1, UINT64_MAX, 1ull << 63, 64};

/* Nothing was delivered, so any released position is a lie; it is found when the broker looks, at the latest for credit. */
START_TEST(released_position_lies)
{
    FabSqe sqe = {.op = FAB_OP_SUBSCRIBE, .user_data = 100, .timeout_ms = 100000};
    atomic_store(&c->out->delivery_consumed, positions[_i]);
    submit_raw(&sqe);
    expect(true);
}
END_TEST

START_TEST(released_position_goes_back)
{
    FabSqe sqe = {.op = FAB_OP_SUBSCRIBE, .user_data = 100, .timeout_ms = 100000};
    FabDelivery d;
    submit_raw(&sqe);
    doorbell(c);
    rig_turn(&rig);
    ck_assert(fab_client_next(c, &d));
    fab_client_release(c, d.release_at);
    doorbell(c);
    rig_turn(&rig);
    ck_assert_uint_eq(fab_server_violations(rig.server), 0);
    atomic_store(&c->out->delivery_consumed, 0);
    expect(true);
}
END_TEST

/* Looked at when the queue of completions is full. */
START_TEST(reaped_position_lies)
{
    atomic_store(&c->out->cq_head, _i ? UINT64_MAX : 1ull << 63);
    for (unsigned i = 0; i < FAB_CQ_ENTRIES_DEFAULT; i++) {
        submit_raw(&(FabSqe){.op = FAB_OP_OPEN});
        if (i % 512 == 0) {
            doorbell(c);
            rig_turn(&rig);
        }
    }
    expect(true);
}
END_TEST

/* A wish for wake-ups that changes all the time buys at most one for each turn in which there was something. */
START_TEST(wakeup_word_spins)
{
    for (uint64_t i = 0; i < 100; i++) {
        atomic_store(&c->out->need_wakeup, i * 0x9e3779b97f4a7c15ull);
        doorbell(c);
        rig_turn(&rig);
    }
    ck_assert_int_eq(poll(&(struct pollfd){.fd = c->wakeup_fd, .events = POLLIN}, 1, 0), 0);
    expect(false);
}
END_TEST

static const struct {
    const char *what;
    size_t size;
    FabControl control;
} datagrams[] = {
    {"short",         10,                 {.magic = FAB_MAGIC, .kind = FAB_CONTROL_PAYLOAD}              },
    {"no magic",      sizeof(FabControl), {.magic = 0, .kind = FAB_CONTROL_PAYLOAD}                      },
    {"no fd",         sizeof(FabControl), {.magic = FAB_MAGIC, .kind = FAB_CONTROL_PAYLOAD, .size = 4096}},
    {"broker's kind", sizeof(FabControl), {.magic = FAB_MAGIC, .kind = FAB_CONTROL_CLOSED}               },
    {"unknown kind",  sizeof(FabControl), {.magic = FAB_MAGIC, .kind = 999}                              },
    {"HELLO again",   sizeof(FabHello),   {.magic = FAB_MAGIC, .kind = 1}                                },
    {"long",          1000,               {.magic = FAB_MAGIC, .kind = FAB_CONTROL_PAYLOAD}              },
};

START_TEST(datagrams_are_checked)
{
    uint8_t buffer[1000] = {0};
    memcpy(buffer, &datagrams[_i].control, sizeof(FabControl));
    ck_assert_int_eq((int)send(c->socket_fd, buffer, datagrams[_i].size, 0),
                     (int)datagrams[_i].size);
    rig_turn(&rig);
    expect(true);
}
END_TEST

/* Many memfds without descriptors: bounded, and the session works on. */
START_TEST(payloads_ahead)
{
    FabControl control = {.magic = FAB_MAGIC, .kind = FAB_CONTROL_PAYLOAD, .size = 4096};
    int fd = fab_memfd_new("x", 4096, true);
    unsigned sent = 0, before = count_fds();

    ck_assert_int_eq(fab_memfd_seal(fd, FAB_SEALS_PAYLOAD), 0);
    while (sent < 300 && sock_send_fds(c->socket_fd, &control, sizeof(control), &fd, 1) == 0) {
        sent++;
        rig_turn(&rig);
    }
    ck_assert_uint_gt(sent, 20);
    ck_assert_uint_le(count_fds() - before, 8);
    for (unsigned i = 0; i < sent; i++)
        submit_raw(&(FabSqe){.op = FAB_OP_PRODUCE, .flags = FAB_SQE_IN_MEMFD, .len = 4096});
    for (int i = 0; i < 10; i++) {
        doorbell(c);
        rig_turn(&rig);
    }
    ck_assert_uint_eq(rig.n_produced, sent);
    close(fd);
    expect(false);
}
END_TEST

/* Growing for ever. */
START_TEST(arena_has_an_end)
{
    unsigned n = 0, fds = count_fds();
    for (; n < 100; n++) {
        FabControl control = {.magic = FAB_MAGIC, .kind = FAB_CONTROL_ARENA, .size = 1u << 20},
                   answer;
        int fd = fab_memfd_new("x", 1u << 20, false);
        ck_assert_int_eq(fab_memfd_seal(fd, FAB_SEALS_C), 0);
        ck_assert_int_eq(sock_send_fds(c->socket_fd, &control, sizeof(control), &fd, 1), 0);
        close(fd);
        rig_turn(&rig);
        ck_assert_int_eq((int)recv(c->socket_fd, &answer, sizeof(answer), 0), sizeof(answer));
        if (answer.error) {
            ck_assert_int_eq(answer.error, -E2BIG);
            break;
        }
    }
    ck_assert_uint_eq(n, (FAB_GROWTH_MAX - FAB_ARENA_DEFAULT) >> 20);
    ck_assert_uint_eq(count_fds(), fds);
    submit_raw(&(FabSqe){.op = FAB_OP_PRODUCE, .off = FAB_GROWTH_MAX - 10, .len = 10});
    expect(false);
    ck_assert_uint_eq(rig.n_produced, 1);
    submit_raw(&(FabSqe){.op = FAB_OP_PRODUCE, .off = FAB_GROWTH_MAX - 10, .len = 11});
    expect(true);
}
END_TEST

/* Rings that follow the first, and large payloads, are as closed to writing as D itself. */
START_TEST(later_memory_is_read_only_too)
{
    static uint8_t big[FAB_GROWTH_MAX];
    const uint8_t *first = c->ring;
    FabDelivery d;

    submit_raw(&(FabSqe){.op = FAB_OP_SUBSCRIBE, .user_data = 1000, .timeout_ms = 50000});
    for (int i = 0; i < 100 && c->ring == first; i++) {
        doorbell(c);
        rig_turn(&rig);
        while (fab_client_next(c, &d))
            fab_client_release(c, d.release_at);
    }
    ck_assert_ptr_ne(c->ring, first);
    ck_assert_int_eq(mprotect((void *)(uintptr_t)c->ring, 4096, PROT_READ | PROT_WRITE), -1);
    ck_assert_int_eq(errno, EACCES);

    FabFrame frame = {.type = FAB_FRAME_NOTIFY};
    Stream *stream = fab_session_userdata(rig.last);
    stream->n = stream->sent;
    while (fab_client_next(c, &d))
        fab_client_release(c, d.release_at);
    frame.size = (uint32_t)fab_session_frame_max(rig.last) + 1;
    ck_assert_uint_le(frame.size, sizeof(big));
    ck_assert_int_eq(fab_session_send(rig.last, &frame, big), 0);
    ck_assert(fab_client_next(c, &d));
    ck_assert_uint_eq(d.frame.size, frame.size);
    ck_assert_int_eq(mprotect((void *)(uintptr_t)d.payload, 4096, PROT_READ | PROT_WRITE), -1);
    ck_assert_int_eq(errno, EACCES);
    expect(false);
}
END_TEST

/* ---- everything at once ---- */

static void mutate(FabClient *client, Rng *rng)
{
    uint64_t value = rng_below(rng, 4) ? rng_below(rng, 2000) : rng_next(rng);
    FabSqe *sqe = &client->sq[rng_below(rng, 1024)];

    switch (rng_below(rng, 12)) {
    case 0:
        atomic_store(&client->out->sq_tail,
                     atomic_load(&client->in->sq_head) + rng_below(rng, 1025));
        break;
    case 1:
        if (rng_below(rng, 500) == 0)
            atomic_store(&client->out->sq_tail, value);
        break;
    case 2:
        atomic_store(&client->out->cq_head, atomic_load(&client->in->cq_tail));
        break;
    case 3:
        atomic_store(&client->out->delivery_consumed, atomic_load(&client->in->delivery_tail));
        break;
    case 4:
        if (rng_below(rng, 500) == 0)
            atomic_store(&client->out->delivery_consumed, value);
        break;
    case 5:
        atomic_store(&client->out->need_wakeup, value);
        break;
    case 6:
    case 7:
    case 8: /* a descriptor that may be in use: torn, changed after the check, or plausible */
        *sqe = (FabSqe){
            .op = (uint8_t)rng_below(rng, 7), .acks = 1, .len = (uint32_t)rng_below(rng, 70000)};
        sqe->off =
            rng_below(rng, FAB_ARENA_DEFAULT - 70000 + (rng_below(rng, 200) == 0 ? 100000 : 0));
        sqe->timeout_ms = (uint32_t)rng_below(rng, 100000);
        sqe->user_data = rng_below(rng, 50);
        break;
    case 9:
        if (rng_below(rng, 300) == 0)
            ((uint8_t *)sqe)[rng_below(rng, 64)] = (uint8_t)rng_next(rng);
        break;
    case 10:
        client->arena[rng_below(rng, FAB_ARENA_DEFAULT)] = (uint8_t)rng_next(rng);
        break;
    default: {
        uint64_t one = 1;
        (void)!write(client->doorbell_fd, &one, 8);
        break;
    }
    }
}

static void hostile_client(const char *path, uint64_t seed)
{
    int64_t until = clock_mono_ns() + 400 * NS_PER_MS;
    unsigned n = 0;
    Rng rng;

    rng_init(&rng, seed);
    while (clock_mono_ns() < until) { /* dropped, it comes back */
        FabClientOptions o = {
            .socket_path = path, .client_id = "hostile\n\x1b[31m", .timeout_ms = 2000};
        FabClient *client;

        REQUIRE(fab_client_new(&o, &client, NULL, 0) == 0);
        n++;
        while (clock_mono_ns() < until && atomic_load(&client->in->epoch) != 0)
            for (int i = 0; i < 64; i++)
                mutate(client, &rng);
        fab_client_free(client);
    }
    REQUIRE(n > 1); /* it was noticed */
}

static void good_client(const char *path, uint64_t argument UNUSED)
{
    int64_t until = clock_mono_ns() + 400 * NS_PER_MS;
    FabClient *client = rig_join(path);
    uint64_t i = 0;
    FabDelivery d;

    for (; clock_mono_ns() < until; i++) {
        FabSqe sqe = {.op = FAB_OP_REQUEST, .user_data = i};
        REQUIRE(fab_client_submit(client, &sqe) == 0);
        while (!fab_client_next(client, &d))
            REQUIRE(fab_client_wait(client, 5 * NS_PER_S) == 0);
        REQUIRE(d.frame.tag == i);
        fab_client_release(client, d.release_at);
    }
    REQUIRE(i > 20);
    fab_client_free(client);
}

/* What a broker does with a payload: look at nothing but its own copy. */
static int copy_first(Rig *r, FabSession *s, const FabSqe *sqe, const void *payload)
{
    static uint8_t copy[FAB_ARENA_MAX];
    Stream *stream = fab_session_userdata(s);

    if (sqe->len > 0)
        memcpy(copy, payload, sqe->len);
    if (sqe->op == FAB_OP_PRODUCE) {
        r->produced_sum += crc32c(0, copy, sqe->len);
        fab_session_complete(s, &(FabCqe){.kind = FAB_CQE_CONSUMED});
        fab_session_complete(s, &(FabCqe){.kind = FAB_CQE_ACKED});
    } else if (sqe->op == FAB_OP_REQUEST) {
        (void)fab_session_send(
            s, &(FabFrame){.type = FAB_FRAME_RESPONSE, .tag = sqe->user_data, .size = sqe->len},
            copy);
    } else if (sqe->op == FAB_OP_SUBSCRIBE) {
        *stream = (Stream){.n = sqe->user_data, .size = sqe->timeout_ms % 30000};
        fab_session_complete(s, &(FabCqe){.kind = FAB_CQE_DONE});
        rig_stream(r, s);
    } else if (sqe->op == FAB_OP_OPEN) {
        fab_session_complete(s, &(FabCqe){.kind = FAB_CQE_DONE});
    }
    return 0;
}

START_TEST(words_that_change_while_we_look)
{
    rig.on_sqe = copy_first;
    pid_t hostile = rig_fork(&rig, hostile_client, (uint64_t)_i + 1);
    pid_t good = rig_fork(&rig, good_client, 0);
    ck_assert_int_eq(rig_serve_until_exit(&rig, good), 0);
    ck_assert_int_eq(rig_serve_until_exit(&rig, hostile), 0);
    ck_assert_uint_gt(fab_server_violations(rig.server), 0);
    ck_assert_uint_eq(fab_server_sessions(rig.server), 2);
    FabSqe sqe = {.op = FAB_OP_REQUEST, .user_data = 1};
    FabDelivery d;
    ck_assert_int_eq(fab_client_submit(other, &sqe), 0);
    fab_client_flush(other);
    rig_turn(&rig);
    ck_assert(fab_client_next(other, &d));
}
END_TEST

/* ---- connections ---- */

/* Connecting and leaving at every step, as fast as it goes; fds and memory come back. */
START_TEST(storm_of_connections)
{
    unsigned before = count_fds();
    FabHello hello = {.magic = FAB_MAGIC, .abi_major = FAB_ABI_MAJOR};

    for (int i = 0; i < 1500; i++) {
        int fd = sock_connect_unix(rig.path, SOCK_SEQPACKET);
        ck_assert_int_ge(fd, 0);
        if (i % 3 > 0)
            ck_assert_int_eq((int)send(fd, &hello, sizeof(hello), 0), (int)sizeof(hello));
        if (i % 3 == 2)
            ck_assert_int_eq(loop_turn(rig.loop, 0), 0);
        close(fd);
        if (i % 16 == 0)
            ck_assert_int_eq(loop_turn(rig.loop, 0), 0);
    }
    rig_turn(&rig);
    rig_turn(&rig);
    ck_assert_uint_eq(fab_server_sessions(rig.server), 2);
    ck_assert_uint_eq(count_fds(), before);
    expect(false);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("hostile");
    TCase *tc = tcase_create("hostile");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 20);
    tcase_add_loop_test(tc, descriptors_are_checked, 0, ARRAY_SIZE(descriptors));
    tcase_add_loop_test(tc, tail_jumps, 0, ARRAY_SIZE(tails));
    tcase_add_loop_test(tc, released_position_lies, 0, ARRAY_SIZE(positions));
    tcase_add_test(tc, released_position_goes_back);
    tcase_add_loop_test(tc, reaped_position_lies, 0, 2);
    tcase_add_test(tc, wakeup_word_spins);
    tcase_add_loop_test(tc, datagrams_are_checked, 0, ARRAY_SIZE(datagrams));
    tcase_add_test(tc, payloads_ahead);
    tcase_add_test(tc, arena_has_an_end);
    tcase_add_test(tc, later_memory_is_read_only_too);
    tcase_add_loop_test(tc, words_that_change_while_we_look, 0, 2);
    tcase_add_test(tc, storm_of_connections);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
