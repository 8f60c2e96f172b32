/* One session with both ends in this process; the test turns the broker's loop by hand. */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "shm/fab_memfd.h"
#include "tests/shm/rig.h"

static Rig rig;
static FabClient *c;
static unsigned fds_before;

static void setup(void)
{
    fds_before = count_fds();
    rig_setup(&rig, NULL);
    c = rig_connect(&rig);
}

/* Whatever a test did: all memory is given back and all descriptors are closed. */
static void teardown(void)
{
    c = fab_client_free(c);
    rig_turn(&rig);
    ck_assert_uint_eq(fab_server_memory(rig.server), 0);
    ck_assert_uint_eq(fab_server_sessions(rig.server), 0);
    ck_assert_uint_eq(rig.n_opened, rig.n_closed);
    rig_teardown(&rig);
    ck_assert_uint_eq(count_fds(), fds_before);
}

static unsigned reap_all(FabCqe *last)
{
    unsigned n = 0;
    while (fab_client_reap(c, last))
        n++;
    return n;
}

static int submit_produce(uint32_t size, uint64_t seed, int16_t acks)
{
    void *block = fab_arena_alloc(c, size);
    if (!block)
        return -ENOBUFS;
    fill_pattern(block, size, seed);
    FabSqe sqe = {.op = FAB_OP_PRODUCE,
                  .acks = acks,
                  .len = size,
                  .off = fab_arena_offset(c, block),
                  .user_data = seed};
    int r = fab_client_submit_block(c, &sqe, block);
    if (r < 0)
        fab_arena_free(c, block);
    return r;
}

static void request(const void *payload, uint32_t size, uint64_t tag)
{
    void *block = fab_arena_alloc(c, size);
    ck_assert_ptr_nonnull(block);
    memcpy(block, payload, size);
    FabSqe sqe = {
        .op = FAB_OP_REQUEST, .len = size, .off = fab_arena_offset(c, block), .user_data = tag};
    ck_assert_int_eq(fab_client_submit_block(c, &sqe, block), 0);
}

static void subscribe(uint64_t n_frames, uint32_t size)
{
    FabSqe sqe = {.op = FAB_OP_SUBSCRIBE, .user_data = n_frames, .timeout_ms = size};
    ck_assert_int_eq(fab_client_submit(c, &sqe), 0);
    fab_client_flush(c);
}

START_TEST(welcome_names_what_was_agreed)
{
    const FabWelcome *w = fab_client_welcome(c);
    ck_assert_uint_eq(w->broker_epoch, 77);
    ck_assert_uint_eq(w->arena_size, FAB_ARENA_DEFAULT);
    ck_assert_uint_eq(w->delivery_size, FAB_DELIVERY_DEFAULT);
    ck_assert_str_eq(fab_session_client_id(rig.last), "test");
    ck_assert_int_eq(fab_session_peer(rig.last)->pid, getpid());
}
END_TEST

START_TEST(produce_is_consumed_then_acknowledged)
{
    FabCqe cqe;
    uint64_t sum = 0;
    uint8_t want[5000];

    /* several times around the queue of descriptors */
    for (uint64_t i = 0; i < 5000; i++) {
        ck_assert_int_eq(submit_produce(5000, i, 1), 0);
        fill_pattern(want, sizeof(want), i);
        sum += crc32c(0, want, sizeof(want));
        fab_client_flush(c);
        if (i % 50 != 49)
            continue;
        rig_turn(&rig);
        for (uint64_t k = i - 49; k <= i; k++) {
            ck_assert(fab_client_reap(c, &cqe));
            ck_assert_uint_eq(cqe.kind, FAB_CQE_CONSUMED);
            ck_assert_uint_eq(cqe.user_data, k);
            ck_assert(fab_client_reap(c, &cqe));
            ck_assert_uint_eq(cqe.kind, FAB_CQE_ACKED);
            ck_assert_uint_eq(cqe.user_data, k);
            ck_assert_int_eq(cqe.base_offset, (int64_t)k);
        }
        ck_assert(!fab_client_reap(c, &cqe));
    }
    ck_assert_uint_eq(rig.produced_sum, sum);
}
END_TEST

START_TEST(full_queue_says_again)
{
    FabSqe sqe = {.op = FAB_OP_NOP};
    for (unsigned i = 0; i < FAB_SQ_ENTRIES_DEFAULT; i++)
        ck_assert_int_eq(fab_client_submit(c, &sqe), 0);
    ck_assert_int_eq(fab_client_submit(c, &sqe), -EAGAIN);
    fab_client_flush(c);
    ck_assert(fab_client_arm(c));
    for (int i = 0; i < 10; i++)
        rig_turn(&rig);
    /* a starved client is woken by the queue alone */
    ck_assert_int_eq(fab_client_wait(c, 0), 0);
    ck_assert_int_eq(fab_client_submit(c, &sqe), 0);
}
END_TEST

START_TEST(retry_leaves_the_descriptor)
{
    FabCqe cqe;
    rig.retry = 1;
    ck_assert_int_eq(submit_produce(100, 1, 1), 0);
    ck_assert_int_eq(submit_produce(100, 2, 1), 0);
    fab_client_flush(c);
    rig_turn(&rig);
    ck_assert(!fab_client_reap(c, &cqe));
    ck_assert_uint_eq(rig.n_sqes, 1);
    fab_session_resume(rig.last);
    rig_turn(&rig);
    ck_assert_uint_eq(reap_all(&cqe), 4);
    ck_assert_uint_eq(cqe.user_data, 2);
    ck_assert_uint_eq(rig.n_produced, 2);
}
END_TEST

/* Without reaping, scanning stops before the queue of completions overflows; reaping starts it again. */
START_TEST(completions_never_overflow)
{
    FabCqe cqe;
    unsigned submitted = 0, got = 0;

    for (int round = 0; round < 20; round++) {
        while (submit_produce(64, submitted, 1) == 0)
            submitted++;
        fab_client_flush(c);
        rig_turn(&rig);
    }
    ck_assert_uint_gt(submitted, FAB_CQ_ENTRIES_DEFAULT / 2);
    ck_assert_uint_le(rig.n_produced, FAB_CQ_ENTRIES_DEFAULT / 2);
    ck_assert_uint_gt(rig.n_produced, FAB_CQ_ENTRIES_DEFAULT / 2 - 64);
    for (int round = 0; round < 40 && got < 2 * submitted; round++) {
        got += reap_all(&cqe);
        (void)fab_client_arm(c);
        rig_turn(&rig);
    }
    ck_assert_uint_eq(got, 2 * submitted);
    ck_assert_uint_eq(rig.n_produced, submitted);
}
END_TEST

/* Acknowledgements that come late are counted in advance. */
START_TEST(late_acknowledgements_have_room)
{
    FabCqe cqe;
    unsigned n = 0, got = 0;

    rig.hold_acks = true;
    for (int round = 0; round < 80; round++) {
        while (n < 10000 && submit_produce(64, n, 1) == 0)
            n++;
        fab_client_flush(c);
        rig_turn(&rig);
        got += reap_all(&cqe);
    }
    unsigned taken = rig.n_produced;
    ck_assert_uint_le(taken, FAB_CQ_ENTRIES_DEFAULT);
    ck_assert_uint_eq(got, taken);
    rig.hold_acks = false;
    for (unsigned i = 0; i < taken; i++)
        fab_session_complete(rig.last, &(FabCqe){.kind = FAB_CQE_ACKED, .user_data = i});
    for (int round = 0; round < 400 && got < 2 * n; round++) {
        got += reap_all(&cqe);
        (void)fab_client_arm(c);
        rig_turn(&rig);
    }
    ck_assert_uint_eq(rig.n_produced, n);
    ck_assert_uint_eq(got, 2 * n);
}
END_TEST

static uint64_t consume(uint64_t expected, uint32_t size, unsigned hold)
{
    FabDelivery d;
    uint64_t held[64] = {0}, n = expected;

    ck_assert_uint_lt(hold, 64);
    while (fab_client_next(c, &d)) {
        ck_assert_uint_eq(d.frame.tag, n);
        ck_assert_uint_eq(d.frame.size, size);
        ck_assert_uint_eq((uintptr_t)d.payload % FAB_FRAME_ALIGN, 0);
        ck_assert(has_pattern(d.payload, size, n));
        if (hold == 0) {
            fab_client_release(c, d.release_at);
        } else {
            if (n - expected >= hold)
                fab_client_release(c, held[n % hold]);
            held[n % hold] = d.release_at;
        }
        n++;
    }
    if (hold > 0 && n > expected)
        fab_client_release(c, held[(n - 1) % hold]);
    return n;
}

/* Sizes that do not divide the ring, so frames cross its end at every place; the ring grows on the way. */
START_TEST(delivery_wraps_and_grows)
{
    static const uint32_t sizes[] = {1, 100, 4000, 60001, 131008};
    uint32_t size = sizes[_i];
    uint64_t n = 40u * 1000 * 1000 / (size + 64), got = 0;

    if (n > 20000)
        n = 20000;
    subscribe(n, size);
    uint64_t memory = 0;
    for (int round = 0; round < 200000 && got < n; round++) {
        rig_turn(&rig);
        got = consume(got, size, 3);
        (void)fab_client_arm(c);
        memory = fab_server_memory(rig.server);
    }
    ck_assert_uint_eq(got, n);
    if (size > 1000) /* it stalled often enough */
        ck_assert_uint_gt(memory, (4u << 20) + (1u << 20));
}
END_TEST

START_TEST(slow_reader_costs_nothing)
{
    subscribe(1000000, 1000);
    for (int i = 0; i < 50; i++)
        rig_turn(&rig);
    const Stream *stream = fab_session_userdata(rig.last);
    ck_assert_uint_le(stream->sent * 1088, FAB_DELIVERY_DEFAULT);
    ck_assert_uint_gt(stream->sent, 200);
    uint64_t memory = fab_server_memory(rig.server);
    ck_assert_uint_lt(memory, 2u << 20); /* a reader that does not read earns no larger ring */
    ck_assert_uint_eq(rig.n_spaces, 0);
    ck_assert_uint_gt(consume(0, 1000, 0), 200);
    (void)fab_client_arm(c);
    rig_turn(&rig);
    ck_assert_uint_eq(rig.n_spaces, 1);
}
END_TEST

/* Pointers into a ring that was left behind stay readable until released. */
START_TEST(held_frames_survive_an_exchange)
{
    FabDelivery held[64], d;
    unsigned n = 0, n_released = 0;
    uint64_t before = fab_server_memory(rig.server);

    subscribe(100000, 20000);
    while (fab_server_memory(rig.server) == before) { /* one out, one in, always out of credit */
        (void)fab_client_arm(c);
        rig_turn(&rig);
        while (fab_client_next(c, &held[n])) {
            n++;
            ck_assert_uint_lt(n, 60);
        }
        fab_client_release(c, held[n_released++].release_at);
    }
    ck_assert_uint_gt(n - n_released, FAB_DELIVERY_DEFAULT / 20000); /* some in either ring */
    for (unsigned i = n_released; i < n; i++) {
        ck_assert_uint_eq(held[i].frame.tag, i);
        ck_assert(has_pattern(held[i].payload, 20000, i));
    }
    fab_client_release(c, held[n - 1].release_at);
    (void)fab_client_arm(c);
    rig_turn(&rig);
    ck_assert(fab_client_next(c, &d));
    ck_assert_uint_eq(d.frame.tag, n);
    ck_assert(has_pattern(d.payload, 20000, n));
}
END_TEST

START_TEST(arena_grows_and_blocks_stay)
{
    void *blocks[1024];
    unsigned n = 0;

    for (int round = 0; round < 10; round++) {
        void *block;
        while (n < 1024 && (block = fab_arena_alloc(c, 65536)) != NULL) {
            fill_pattern(block, 65536, n);
            blocks[n++] = block;
        }
        rig_turn(&rig);
        ck_assert_int_eq(fab_client_process(c), 0);
    }
    ck_assert_uint_eq(n, FAB_GROWTH_MAX / 65536);
    for (unsigned i = 0; i < n; i++) {
        FabSqe sqe = {.op = FAB_OP_PRODUCE,
                      .len = 65536,
                      .off = fab_arena_offset(c, blocks[i]),
                      .user_data = i};
        ck_assert(has_pattern(blocks[i], 65536, i));
        ck_assert_int_eq(fab_client_submit_block(c, &sqe, blocks[i]), 0);
    }
    fab_client_flush(c);
    for (int i = 0; i < 10; i++)
        rig_turn(&rig);
    ck_assert_uint_eq(rig.n_produced, n);
    void *all = fab_arena_alloc(c, FAB_GROWTH_MAX); /* all came back and is one piece again */
    ck_assert_ptr_nonnull(all);
}
END_TEST

/* The answer to a wish for more arena wakes the client. */
START_TEST(arena_growth_wakes)
{
    while (fab_arena_alloc(c, 65536))
        ;
    ck_assert(fab_client_arm(c));
    rig_turn(&rig);
    ck_assert_int_eq(fab_client_wait(c, NS_PER_S), 0);
    ck_assert_ptr_nonnull(fab_arena_alloc(c, 65536));
}
END_TEST

START_TEST(large_payloads_travel_as_memfds)
{
    size_t size = (3u << 20) + 17;
    uint8_t *big = malloc(size);
    FabDelivery d;
    FabSqe sqe = {.op = FAB_OP_REQUEST, .user_data = 5};

    ck_assert_ptr_nonnull(big);
    for (uint64_t round = 0; round < 5; round++) {
        fill_pattern(big, size, round);
        ck_assert_int_eq(fab_client_submit_memfd(c, &sqe, big, size), 0);
        fab_client_flush(c);
        rig_turn(&rig);
        ck_assert(fab_client_next(c, &d));
        ck_assert_uint_eq(d.frame.type, FAB_FRAME_RESPONSE);
        ck_assert_uint_eq(d.frame.size, size);
        ck_assert_uint_eq(d.frame.tag, 5);
        ck_assert(memcmp(d.payload, big, size) == 0);
        uint64_t with = fab_server_memory(rig.server);
        fab_client_release(c, d.release_at);
        (void)fab_client_arm(c); /* its release is worth a doorbell */
        rig_turn(&rig);
        ck_assert_uint_eq(fab_server_memory(rig.server), with - size);
    }
    free(big);
}
END_TEST

/* More large answers than may be out at once, then small ones: all arrive, in order, though the reader is late. */
START_TEST(answers_wait_in_order)
{
    size_t size = 200000;
    uint8_t *big = malloc(size);
    FabDelivery d;
    unsigned sent = 0, got = 0;

    for (; sent < 40; sent++) {
        FabSqe sqe = {.op = FAB_OP_REQUEST, .user_data = sent};
        fill_pattern(big, size, sent);
        if (sent % 4 == 3) {
            request(big, 1000, sent);
        } else {
            int r = fab_client_submit_memfd(c, &sqe, big, size);
            ck_assert_int_eq(r, 0);
        }
        fab_client_flush(c);
        rig_turn(&rig);
    }
    for (int round = 0; round < 200 && got < sent; round++) {
        while (fab_client_next(c, &d)) {
            ck_assert_uint_eq(d.frame.tag, got);
            ck_assert_uint_eq(d.frame.size, got % 4 == 3 ? 1000 : size);
            ck_assert(has_pattern(d.payload, d.frame.size, got));
            got++;
            fab_client_release(c, d.release_at);
        }
        (void)fab_client_arm(c);
        rig_turn(&rig);
    }
    ck_assert_uint_eq(got, sent);
    free(big);
}
END_TEST

/* 64 MiB of unread answers and no more. */
START_TEST(unread_answers_are_bounded)
{
    uint8_t *big = calloc(1, 4u << 20);
    FabFrame frame = {.type = FAB_FRAME_NOTIFY, .size = 4u << 20};
    int r = 0;
    unsigned n = 0;

    while (n < 100 && (r = fab_session_send(rig.last, &frame, big)) == 0)
        n++;
    ck_assert_int_eq(r, -ENOBUFS);
    ck_assert_uint_le(n, 16 + 8 + 1);
    ck_assert_int_eq(fab_session_send(rig.last, &frame, big), -ECONNRESET);
    rig_turn(&rig);
    ck_assert_uint_eq(rig.n_closed, 1);
    while (fab_client_wait(c, 0) == 0) {
        FabDelivery d;
        while (fab_client_next(c, &d))
            fab_client_release(c, d.release_at);
    }
    ck_assert_ptr_nonnull(strstr(fab_client_why(c), "64 MiB"));
    free(big);
}
END_TEST

START_TEST(frames_carry_fds)
{
    int pair[2];
    FabFrame frame = {.type = FAB_FRAME_LEASE, .tag = 3, .size = 4};
    FabFrame plain = {.type = FAB_FRAME_NOTIFY, .tag = 4};
    FabDelivery d;
    char byte = 0;

    ck_assert_int_eq(pipe2(pair, O_CLOEXEC), 0);
    ck_assert_int_eq(fab_session_send(rig.last, &plain, NULL), 0);
    ck_assert_int_eq(fab_session_send_fds(rig.last, &frame, "abcd", pair, 2), 0);
    ck_assert_int_eq(fab_session_send(rig.last, &plain, NULL), 0);
    close(pair[0]);
    close(pair[1]);
    ck_assert(fab_client_next(c, &d));
    ck_assert_int_eq(d.fds[0], -1);
    ck_assert(fab_client_next(c, &d));
    ck_assert_uint_eq(d.frame.type, FAB_FRAME_LEASE);
    ck_assert_uint_eq(d.frame.flags, 0);
    ck_assert(memcmp(d.payload, "abcd", 4) == 0);
    ck_assert_int_eq(write(d.fds[1], "x", 1), 1);
    ck_assert_int_eq(read(d.fds[0], &byte, 1), 1);
    close(d.fds[0]);
    close(d.fds[1]);
    ck_assert_int_eq(d.fds[2], -1);
    ck_assert(fab_client_next(c, &d));
    ck_assert_int_eq(d.fds[0], -1);
}
END_TEST

/* Fds for frames queue up behind a socket that the client does not read, and go on when it does. */
START_TEST(fds_wait_for_the_socket)
{
    FabFrame frame = {.type = FAB_FRAME_LEASE};
    FabDelivery d;
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    unsigned n = 1000, got = 0;

    ck_assert_int_ge(fd, 0);
    for (unsigned i = 0; i < n; i++) {
        frame.tag = i;
        ck_assert_int_eq(fab_session_send_fds(rig.last, &frame, NULL, &fd, 1), 0);
    }
    close(fd);
    for (int round = 0; round < 300 && got < n; round++) {
        while (fab_client_next(c, &d)) {
            ck_assert_uint_eq(d.frame.tag, got++);
            ck_assert_int_ge(d.fds[0], 0);
            close(d.fds[0]);
            fab_client_release(c, d.release_at);
        }
        (void)fab_client_arm(c);
        rig_turn(&rig);
    }
    ck_assert_uint_eq(got, n);
}
END_TEST

static bool readable(void)
{
    struct pollfd p = {.fd = fab_client_fd(c), .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

/* CONSUMED alone wakes nobody when ACKED will follow; ACKED does; with acks=0 CONSUMED does. */
START_TEST(one_wake_up_for_a_batch)
{
    FabCqe cqe;

    rig.hold_acks = true;
    ck_assert_int_eq(fab_client_process(c), 0);
    ck_assert_int_eq(submit_produce(100, 9, 1), 0);
    ck_assert(fab_client_arm(c));
    rig_turn(&rig);
    ck_assert_uint_eq(rig.n_produced, 1);
    ck_assert(!readable());
    fab_session_complete(rig.last, &(FabCqe){.kind = FAB_CQE_ACKED, .user_data = 9});
    rig_turn(&rig);
    ck_assert(readable());
    ck_assert_int_eq(fab_client_process(c), 0);
    ck_assert(!readable());
    ck_assert_uint_eq(reap_all(&cqe), 2);
    ck_assert_int_eq(submit_produce(100, 10, 0), 0);
    ck_assert(fab_client_arm(c));
    rig_turn(&rig);
    ck_assert(readable());
}
END_TEST

/* Not armed, not rung: a client that is busy reading costs the broker no system call. */
START_TEST(no_doorbell_without_need)
{
    FabFrame frame = {.type = FAB_FRAME_NOTIFY};
    FabDelivery d;

    ck_assert_int_eq(fab_client_process(c), 0);
    ck_assert(fab_client_arm(c));
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(fab_session_send(rig.last, &frame, NULL), 0);
        rig_turn(&rig);
        ck_assert_int_eq(readable(), i == 0);
        ck_assert_int_eq(fab_client_process(c), 0);
    }
    ck_assert(!fab_client_arm(c));
    for (int i = 0; i < 3; i++)
        ck_assert(fab_client_next(c, &d));
    ck_assert(fab_client_arm(c));
}
END_TEST

START_TEST(what_was_published_before_the_end_is_taken)
{
    for (unsigned i = 0; i < 300; i++)
        ck_assert_int_eq(submit_produce(1000, i, 0), 0);
    /* no doorbell, no turn: gone */
    c = fab_client_free(c);
    rig_turn(&rig);
    ck_assert_uint_eq(rig.n_produced, 300);
    ck_assert_uint_eq(rig.n_closed, 1);
    ck_assert_uint_eq(fab_server_violations(rig.server), 0);
}
END_TEST

START_TEST(closing_tells_why)
{
    FabCqe cqe;
    ck_assert_int_eq(submit_produce(100, 1, 1), 0);
    fab_client_flush(c);
    rig_turn(&rig);
    fab_session_close(rig.last, "because I can");
    ck_assert_uint_eq(rig.n_closed, 0); /* not under the caller */
    rig_turn(&rig);
    ck_assert_uint_eq(rig.n_closed, 1);
    ck_assert_int_eq(fab_client_process(c), -ECONNRESET);
    ck_assert_str_eq(fab_client_why(c), "because I can");
    ck_assert_int_eq(submit_produce(100, 2, 1), -ECONNRESET);
    ck_assert_uint_eq(reap_all(&cqe), 2); /* what was there can still be read */
    ck_assert_int_eq(fab_client_wait(c, -1), -ECONNRESET);
}
END_TEST

START_TEST(progress_is_seen)
{
    uint64_t before = fab_session_progress(rig.last);
    fab_client_touch_progress(c);
    ck_assert_uint_ne(fab_session_progress(rig.last), before);
}
END_TEST

/* ---- refusals ---- */

static void bare_setup(void)
{
    fds_before = count_fds();
    rig_setup(&rig, NULL);
}

static int raw_hello(const void *hello, size_t size, FabRefusal *ret)
{
    int fd = sock_connect_unix(rig.path, SOCK_SEQPACKET);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq((int)send(fd, hello, size, 0), (int)size);
    rig_turn(&rig);
    *ret = (FabRefusal){0};
    ssize_t n = recv(fd, ret, sizeof(*ret), MSG_DONTWAIT);
    close(fd);
    rig_turn(&rig);
    return (int)n;
}

static const struct {
    FabHello hello;
    size_t size;
    int error;
    const char *says;
} refusals[] = {
    {{.magic = 1, .abi_major = 1},                                                           sizeof(FabHello), -EPROTO,          "libleat"   },
    {{.magic = FAB_MAGIC, .abi_major = 2},                                                   sizeof(FabHello), -EPROTONOSUPPORT, "protocol 2"},
    {{.magic = FAB_MAGIC, .abi_major = 1, .features = 4},                                    sizeof(FabHello), -EOPNOTSUPP,      "0x4"       },
    {{.magic = FAB_MAGIC, .abi_major = 1, .role = 9},                                        sizeof(FabHello), -EINVAL,          "role 9"    },
    {{.magic = FAB_MAGIC, .abi_major = 1},                                                   20,               -EPROTO,          "20 bytes"  },
    {{.magic = FAB_MAGIC, .abi_major = 1, .role = FAB_ROLE_CONTROLLER, .build_id = "other"},
     sizeof(FabHello),
     -ESTALE,
     "other"                                                                                                                                 },
};

START_TEST(hello_is_refused_with_a_sentence)
{
    FabRefusal refusal;
    ck_assert_int_eq(raw_hello(&refusals[_i].hello, refusals[_i].size, &refusal), sizeof(refusal));
    ck_assert_uint_eq(refusal.magic, FAB_MAGIC);
    ck_assert_int_eq(refusal.error, refusals[_i].error);
    ck_assert_msg(strstr(refusal.why, refusals[_i].says) != NULL, "%s", refusal.why);
    ck_assert_uint_eq(rig.n_opened, 0);
}
END_TEST

START_TEST(rights_are_asked)
{
    FabClientOptions o = {.client_id = "x"};
    char why[256];
    rig.authorize_error = -EACCES;
    ck_assert_int_eq(rig_connect_with(&rig, &o, &c, why), -EACCES);
    ck_assert_ptr_nonnull(strstr(why, "leat-clients"));
}
END_TEST

START_TEST(draining_takes_no_clients)
{
    FabClientOptions o = {.client_id = "x"};
    char why[256];
    fab_server_stop_accepting(rig.server);
    ck_assert_int_eq(rig_connect_with(&rig, &o, &c, why), -ESHUTDOWN);
    o.role = FAB_ROLE_CONTROLLER; /* our own daemons do come back meanwhile */
    ck_assert_int_eq(rig_connect_with(&rig, &o, &c, why), 0);
}
END_TEST

START_TEST(limits_name_their_key)
{
    FabServerOptions o = {.memory_max = 8u << 20, .sessions_max = 3, .sessions_per_uid_max = 2};
    FabClientOptions client = {.client_id = "x"};
    FabClient *more[2] = {NULL};
    char why[256];

    rig_teardown(&rig);
    rig_setup(&rig, &o);
    c = rig_connect(&rig);
    more[0] = rig_connect(&rig);
    ck_assert_int_eq(rig_connect_with(&rig, &client, &more[1], why), -EUSERS);
    fab_client_free(more[0]);
    rig_turn(&rig);
    client.arena_size = 8u << 20;
    ck_assert_int_eq(rig_connect_with(&rig, &client, &more[1], why), -ENOBUFS);
    ck_assert_ptr_nonnull(strstr(why, "session.memory.max"));
    /* growth is accounted too: of arena, and of the ring */
    ck_assert_ptr_nonnull(fab_arena_alloc(c, 1000000));
    client.arena_size = 4u << 20;
    ck_assert_int_eq(rig_connect_with(&rig, &client, &more[1], why), 0);
    ck_assert_ptr_null(fab_arena_alloc(c, 1000000));
    rig_turn(&rig);
    ck_assert_int_eq(fab_client_process(c), 0);
    ck_assert_ptr_nonnull(strstr(fab_client_why(c), "session.memory.max"));
    ck_assert_ptr_null(fab_arena_alloc(c, 1000000));
    ck_assert_ptr_nonnull(fab_arena_alloc(c, 20000)); /* the old arena is as it was */
    uint64_t memory = fab_server_memory(rig.server);
    ck_assert_uint_le(memory, 8u << 20);
    fab_client_free(more[1]);
}
END_TEST

START_TEST(larger_wishes_are_granted)
{
    FabClientOptions o = {
        .client_id = "x", .arena_size = 16u << 20, .delivery_size = (1u << 20) + 1};
    char why[256];
    ck_assert_int_eq(rig_connect_with(&rig, &o, &c, why), 0);
    ck_assert_uint_eq(fab_client_welcome(c)->arena_size, 16u << 20);
    ck_assert_uint_eq(fab_client_welcome(c)->delivery_size, 2u << 20);
    ck_assert_ptr_nonnull(fab_arena_alloc(c, 15u << 20));
}
END_TEST

/* Silence is cut off after its time, and a crowd of silent ones keeps nobody out. */
START_TEST(silence_ends)
{
    FabServerOptions o = {.memory_max = 64u << 20, .sessions_max = 30, .hello_timeout_ms = 30};
    int silent[200];
    char byte;

    rig_teardown(&rig);
    rig_setup(&rig, &o);
    for (size_t i = 0; i < ARRAY_SIZE(silent); i++) {
        silent[i] = sock_connect_unix(rig.path, SOCK_SEQPACKET);
        ck_assert_int_ge(silent[i], 0);
        ck_assert_int_eq(loop_turn(rig.loop, 0), 0);
    }
    ck_assert_int_eq((int)recv(silent[0], &byte, 1, MSG_DONTWAIT), 0); /* made room already */
    c = rig_connect(&rig);
    int64_t until = clock_mono_ms() + 60;
    while (clock_mono_ms() < until)
        ck_assert_int_eq(loop_turn(rig.loop, 5 * NS_PER_MS), 0);
    for (size_t i = 0; i < ARRAY_SIZE(silent); i++) {
        ck_assert_int_eq((int)recv(silent[i], &byte, 1, MSG_DONTWAIT), 0);
        close(silent[i]);
    }
    ck_assert_int_eq(fab_client_process(c), 0);
}
END_TEST

/* D21: the same on a kernel without MFD_NOEXEC_SEAL. */
START_TEST(older_kernel)
{
    FabDelivery d;
    ck_assert_int_eq(setenv("LEAT_OLD_KERNEL", "1", 1), 0);
    c = rig_connect(&rig);
    uint8_t *big = calloc(1, 1 << 20);
    FabSqe sqe = {.op = FAB_OP_REQUEST};
    ck_assert_int_eq(fab_client_submit_memfd(c, &sqe, big, 1 << 20), 0);
    fab_client_flush(c);
    rig_turn(&rig);
    ck_assert(fab_client_next(c, &d));
    ck_assert_uint_eq(d.frame.size, 1 << 20);
    free(big);
    unsetenv("LEAT_OLD_KERNEL");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("session");
    TCase *tc = tcase_create("session");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, welcome_names_what_was_agreed);
    tcase_add_test(tc, produce_is_consumed_then_acknowledged);
    tcase_add_test(tc, full_queue_says_again);
    tcase_add_test(tc, retry_leaves_the_descriptor);
    tcase_add_test(tc, completions_never_overflow);
    tcase_add_test(tc, late_acknowledgements_have_room);
    tcase_add_loop_test(tc, delivery_wraps_and_grows, 0, 5);
    tcase_add_test(tc, slow_reader_costs_nothing);
    tcase_add_test(tc, held_frames_survive_an_exchange);
    tcase_add_test(tc, arena_grows_and_blocks_stay);
    tcase_add_test(tc, arena_growth_wakes);
    tcase_add_test(tc, large_payloads_travel_as_memfds);
    tcase_add_test(tc, answers_wait_in_order);
    tcase_add_test(tc, unread_answers_are_bounded);
    tcase_add_test(tc, frames_carry_fds);
    tcase_add_test(tc, fds_wait_for_the_socket);
    tcase_add_test(tc, one_wake_up_for_a_batch);
    tcase_add_test(tc, no_doorbell_without_need);
    tcase_add_test(tc, what_was_published_before_the_end_is_taken);
    tcase_add_test(tc, closing_tells_why);
    tcase_add_test(tc, progress_is_seen);
    suite_add_tcase(suite, tc);

    TCase *bare = tcase_create("handshake");
    tcase_add_checked_fixture(bare, bare_setup, teardown);
    tcase_add_loop_test(bare, hello_is_refused_with_a_sentence, 0, ARRAY_SIZE(refusals));
    tcase_add_test(bare, rights_are_asked);
    tcase_add_test(bare, draining_takes_no_clients);
    tcase_add_test(bare, limits_name_their_key);
    tcase_add_test(bare, larger_wishes_are_granted);
    tcase_add_test(bare, silence_ends);
    tcase_add_test(bare, older_kernel);
    suite_add_tcase(suite, bare);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
