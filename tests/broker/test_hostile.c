/* What a hostile TCP client can do to the broker process: be closed, be bounded, hold up nobody. */

#include "arpa/inet.h"
#include <check.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include "sys/socket.h"
#include <unistd.h>
#include "base/clock.h"
#include "broker/daemon.h"
#include "tests/broker/client.h"
#include "wire/error.h"

START_TEST(impossible_frames)
{
    static const uint32_t sizes[] = {0x7fffffff, 0xffffffff, 0x80000000, 104857601, 0, 7, 0x47455420, 0x16030100};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        uint32_t frame[4] = {htonl(sizes[i])};
        int fd = rig_connect(rig);
        ck_assert_int_eq(send(fd, frame, sizeof(frame), MSG_NOSIGNAL), sizeof(frame));
        ck_assert_msg(rig_is_closed(fd, 5000), "size %x", sizes[i]);
        close(fd);
    }
    answers_quickly();
}
END_TEST

static void send_raw(int fd, const void *body, size_t size)
{
    uint32_t word = htonl((uint32_t)size);
    ck_assert_int_eq(send(fd, &word, 4, MSG_NOSIGNAL), 4);
    ck_assert_int_eq(send(fd, body, size, MSG_NOSIGNAL), (ssize_t)size);
}

START_TEST(malformed_requests)
{
    static const struct {
        const char *what;
        uint8_t body[24];
        size_t size;
    } cases[] = {
        {"unknown api", {0x03, 0xe7, 0, 0, 0, 0, 0, 1, 0, 1, 'x'}, 11},
        {"internal api", {0x03, 0xe9, 0, 0, 0, 0, 0, 1, 0, 1, 'x'}, 11},
        {"version never offered", {0, 3, 0, 99, 0, 0, 0, 1, 0, 1, 'x'}, 11},
        {"client id beyond the frame", {0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 'x'}, 11},
        {"array of 2^31-1 topics", {0, 3, 0, 1, 0, 0, 0, 1, 0, 1, 'x', 0x7f, 0xff, 0xff, 0xff}, 15},
        {"array of -2 topics", {0, 3, 0, 1, 0, 0, 0, 1, 0, 1, 'x', 0xff, 0xff, 0xff, 0xfe}, 15},
        {"compact array bomb", {0, 3, 0, 9, 0, 0, 0, 1, 0, 1, 'x', 0, 0xff, 0xff, 0xff, 0xff, 0x0f}, 17},
        {"header only", {0, 3, 0, 1, 0, 0, 0, 1}, 8},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int fd = rig_connect(rig);
        send_raw(fd, cases[i].body, cases[i].size);
        ck_assert_msg(rig_is_closed(fd, 5000), "%s", cases[i].what);
        close(fd);
    }
    answers_quickly();
}
END_TEST

START_TEST(half_frames_cost_nothing)
{
    enum { COUNT = 200 };
    int fds[COUNT];
    uint8_t head[68] = {0x05, 0xf5, 0xe1, 0x00}; /* 100,000,000 bytes announced, 64 sent */
    for (int i = 0; i < COUNT; i++) {
        fds[i] = rig_connect(rig);
        ck_assert_int_eq(send(fds[i], head, sizeof(head), MSG_NOSIGNAL), sizeof(head));
    }
    answers_quickly();
    char path[64], line[128];
    long kib = 0;
    snprintf(path, sizeof(path), "/proc/%d/status", (int)rig_pid(rig));
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "VmRSS: %ld", &kib) == 1)
            break;
    }
    fclose(f);
    ck_assert_int_lt(kib, 400 * 1024);
    for (int i = 0; i < COUNT; i++)
        close(fds[i]);
}
END_TEST

START_TEST(too_new_api_versions)
{
    static const uint8_t body[] = {0, 18, 0, 99, 0, 0, 0, 7, 0, 1, 'x', 0};
    static const uint8_t want[] = {0, 0, 0, 16, 0, 0, 0, 7, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4};
    uint8_t got[sizeof(want)];
    int fd = rig_connect(rig);
    send_raw(fd, body, sizeof(body));
    ck_assert_int_eq(recv(fd, got, sizeof(got), MSG_WAITALL), sizeof(got));
    ck_assert_mem_eq(got, want, sizeof(want));
    close(fd);
}
END_TEST

/* Requests sent back to back: answers in order, and a fetch that waits holds up only its own connection. */
START_TEST(pipelined_requests)
{
    int fd = rig_connect(rig);
    rig_create_topic(rig, "pipe", 1, NULL);
    enum { COUNT = 100 };
    for (int i = 0; i < COUNT; i++) {
        Buf b = rig_batch(1, i, -1, -1);
        send_produce(fd, 3, -1, "pipe", 0, &b);
        buf_deinit(&b);
    }
    for (int i = 0; i < COUNT; i++) {
        uint8_t answer[50]; /* 4 size, 4 correlation, 4 count, 2+4 name, 4 count, 4 index, 2 error, 8 offset, 8 time, 4 throttle */
        ck_assert_int_eq(recv(fd, answer, 48, MSG_WAITALL), 48);
        ck_assert_int_eq(answer[26] << 8 | answer[27], 0);
        ck_assert_int_eq(answer[35], i);
    }
    close(fd);
}
END_TEST

static int readable(struct pollfd *fds, nfds_t n)
{
    int r = poll(fds, n, 10);
    ck_assert_int_ge(r, 0);
    return r;
}

/* More requests for the controller than there may be, and it answers none: the broker still asks it on its own behalf. */
START_TEST(a_crowd_before_the_controller)
{
    enum { COUNT = DAEMON_CONTROLLER_CALLS_MAX };
    struct pollfd fds[COUNT];
    int fd = rig_connect(rig);
    KCreateTopicsRequestTopics t = {.name = k_str(RIG_UNANSWERED), .num_partitions = 1, .replication_factor = 1};
    KCreateTopicsRequest q = {.topics = {&t, 1}, .timeout_ms = 30000};
    Arena arena = ARENA_NULL;
    for (int i = 0; i < COUNT; i++) {
        fds[i] = (struct pollfd){.fd = rig_connect(rig), .events = POLLIN};
        rig_send(fds[i].fd, 19, 3, &q);
    }
    for (int64_t until = clock_mono_ms() + 20000; readable(fds, COUNT) < DAEMON_OWN_CALLS;) /* refused */
        ck_assert_int_lt(clock_mono_ms(), until);
    for (int i = 0; i < 6; i++) { /* ids come in blocks of two */
        KInitProducerIdRequest id = {.transactional_id = K_STR_NULL, .transaction_timeout_ms = 1000};
        KInitProducerIdResponse a;
        rig_ask(fd, 22, 1, &id, &arena, &a);
        ck_assert_int_eq(a.error_code, K_NONE);
    }
    arena_deinit(&arena);
    for (int i = 0; i < COUNT; i++)
        close(fds[i].fd);
    close(fd);
}
END_TEST

int main(int argc, char **argv)
{
    const ProcessTest tests[] = {
        {"impossible_frames", impossible_frames},
        {"malformed_requests", malformed_requests},
        {"half_frames_cost_nothing", half_frames_cost_nothing},
        {"too_new_api_versions", too_new_api_versions},
        {"pipelined_requests", pipelined_requests},
        {"a_crowd_before_the_controller", a_crowd_before_the_controller},
    };
    return process_main(argc, argv, "hostile", tests, ARRAY_SIZE(tests));
}
