/* What a local session sees of the broker process: produce, delivery, flow control, leases, rights. */

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/clock.h"
#include "shm/fab_client.h"
#include "tests/broker/client.h"
#include "wire/batch.h"

typedef struct Local {
    FabClient *fab;
    uint32_t handle;
} Local;

static FabCqe await(Local *l, uint16_t kind)
{
    FabCqe cqe;
    int64_t until = clock_mono_ms() + 5000;
    for (;;) {
        while (fab_client_reap(l->fab, &cqe)) {
            if (cqe.kind == kind)
                return cqe;
        }
        ck_assert_int_lt(clock_mono_ms(), until);
        ck_assert_int_eq(fab_client_wait(l->fab, 100 * NS_PER_MS), 0);
        ck_assert_int_eq(fab_client_process(l->fab), 0);
    }
}

static FabCqe submit(Local *l, FabSqe sqe, const void *payload, size_t size, uint16_t kind)
{
    void *block = fab_arena_alloc(l->fab, (uint32_t)size);
    ck_assert_ptr_nonnull(block);
    memcpy(block, payload, size);
    sqe.off = fab_arena_offset(l->fab, block);
    sqe.len = (uint32_t)size;
    ck_assert_int_eq(fab_client_submit(l->fab, &sqe), 0);
    fab_client_flush(l->fab);
    FabCqe cqe = await(l, kind);
    fab_arena_free(l->fab, block);
    return cqe;
}

static FabDelivery next_frame(Local *l)
{
    FabDelivery d;
    int64_t until = clock_mono_ms() + 5000;
    while (!fab_client_next(l->fab, &d)) {
        ck_assert_int_lt(clock_mono_ms(), until);
        ck_assert_int_eq(fab_client_wait(l->fab, 100 * NS_PER_MS), 0);
        ck_assert_int_eq(fab_client_process(l->fab), 0);
    }
    return d;
}

static Local local_open(const char *topic)
{
    Local l = {0};
    char why[256] = "";
    FabClientOptions o = {.socket_path = rig_socket(rig), .role = FAB_ROLE_CLIENT, .client_id = "local", .timeout_ms = 5000};
    ck_assert_msg(fab_client_new(&o, &l.fab, why, sizeof(why)) == 0, "%s", why);
    FabCqe cqe = submit(&l, (FabSqe){.op = FAB_OP_OPEN}, topic, strlen(topic), FAB_CQE_DONE);
    ck_assert_int_eq(cqe.kafka_error, 0);
    l.handle = (uint32_t)cqe.base_offset;
    return l;
}

static void subscribe(Local *l, int64_t offset, uint32_t generation)
{
    FabSubscribe s = {.offset = offset, .leader_epoch = -1, .generation = generation, .min_bytes = 1, .max_frame_bytes = 1 << 20};
    ck_assert_int_eq(submit(l, (FabSqe){.op = FAB_OP_SUBSCRIBE, .handle = l->handle}, &s, sizeof(s), FAB_CQE_DONE).kafka_error, 0);
}

START_TEST(local_produce_and_consume)
{
    rig_create_topic(rig, "local", 1, NULL);
    Local l = local_open("local");
    subscribe(&l, -2, 1);
    FabDelivery d = next_frame(&l);
    ck_assert_int_eq(d.frame.type, FAB_FRAME_POSITION); /* stands at the end */
    ck_assert_int_eq(d.frame.aux, 1);
    fab_client_release(l.fab, d.release_at);
    int64_t seen = 0;
    for (int i = 0; i < 50; i++) {
        Buf b = rig_batch(20, 20 * i, -1, -1);
        FabCqe cqe = submit(&l, (FabSqe){.op = FAB_OP_PRODUCE, .handle = l.handle, .acks = -1}, b.data, b.size, FAB_CQE_ACKED);
        ck_assert_int_eq(cqe.kafka_error, 0);
        ck_assert_int_eq(cqe.base_offset, 20 * i);
        buf_deinit(&b);
    }
    while (seen < 1000) {
        d = next_frame(&l);
        ck_assert_int_eq(d.frame.type, FAB_FRAME_BATCHES);
        ck_assert_uint_eq(d.frame.generation, 1);
        seen += walk((KBytes){d.payload, (int32_t)d.frame.size}, seen, 0, 0);
        ck_assert_int_eq(d.frame.next_offset, seen);
        fab_client_release(l.fab, d.release_at);
    }
    subscribe(&l, 990, 2); /* seek back */
    do {
        d = next_frame(&l);
        fab_client_release(l.fab, d.release_at);
    } while (d.frame.generation != 2);
    ck_assert_int_eq(walk((KBytes){d.payload, (int32_t)d.frame.size}, 990, 0, 0), 10);
    subscribe(&l, 5000, 3);
    d = next_frame(&l);
    ck_assert_int_eq(d.frame.type, FAB_FRAME_ERROR);
    ck_assert_int_eq(d.frame.kafka_error, 1);
    fab_client_free(l.fab);
}
END_TEST

/* A reader that does not release anything stops itself and nobody else; then everything comes, once and in order. */
START_TEST(slow_reader)
{
    rig_create_topic(rig, "slow", 1, NULL);
    Local l = local_open("slow"), w = local_open("slow");
    subscribe(&l, 0, 1);
    int total = 0;
    for (; total < 200000; total += 1000) {
        Buf b = rig_batch(1000, total, -1, -1);
        ck_assert_int_eq(submit(&w, (FabSqe){.op = FAB_OP_PRODUCE, .handle = w.handle, .acks = 1}, b.data, b.size, FAB_CQE_ACKED).kafka_error, 0);
        buf_deinit(&b);
    }
    answers_quickly();
    int64_t seen = 0;
    while (seen < total) {
        FabDelivery d = next_frame(&l);
        if (d.frame.type == FAB_FRAME_BATCHES)
            seen += walk((KBytes){d.payload, (int32_t)d.frame.size}, seen, 0, 0);
        fab_client_release(l.fab, d.release_at);
    }
    fab_client_free(l.fab);
    fab_client_free(w.fab);
}
END_TEST

START_TEST(local_min_bytes_and_max_wait)
{
    rig_create_topic(rig, "little", 1, NULL);
    Local l = local_open("little");
    Buf b = rig_batch(1, 0, -1, -1);
    FabSubscribe s = {
        .offset = 0, .leader_epoch = -1, .generation = 1, .min_bytes = 3 * (uint32_t)b.size, .max_wait_ms = 250, .max_frame_bytes = 1 << 20};
    submit(&l, (FabSqe){.op = FAB_OP_SUBSCRIBE, .handle = l.handle}, &s, sizeof(s), FAB_CQE_DONE);
    FabDelivery d = next_frame(&l);
    ck_assert_int_eq(d.frame.type, FAB_FRAME_POSITION);
    fab_client_release(l.fab, d.release_at);
    int64_t start_ms = clock_mono_ms();
    submit(&l, (FabSqe){.op = FAB_OP_PRODUCE, .handle = l.handle, .acks = -1}, b.data, b.size, FAB_CQE_ACKED);
    d = next_frame(&l);
    ck_assert_int_ge(clock_mono_ms() - start_ms, 240); /* too little: max_wait */
    ck_assert_int_eq(d.frame.next_offset, 1);
    fab_client_release(l.fab, d.release_at);
    start_ms = clock_mono_ms();
    for (int i = 0; i < 3; i++)
        submit(&l, (FabSqe){.op = FAB_OP_PRODUCE, .handle = l.handle, .acks = -1}, b.data, b.size, FAB_CQE_ACKED);
    d = next_frame(&l);
    ck_assert_int_lt(clock_mono_ms() - start_ms, 200); /* enough: at once */
    ck_assert_int_eq(d.frame.next_offset, 4);
    fab_client_free(l.fab);
    buf_deinit(&b);
}
END_TEST

static FabDelivery lease(Local *l, int64_t offset, uint64_t tag)
{
    void *block = fab_arena_alloc(l->fab, sizeof(offset));
    memcpy(block, &offset, sizeof(offset));
    FabSqe sqe = {
        .op = FAB_OP_LEASE, .handle = l->handle, .len = sizeof(offset), .off = fab_arena_offset(l->fab, block), .user_data = tag};
    ck_assert_int_eq(fab_client_submit_block(l->fab, &sqe, block), 0);
    fab_client_flush(l->fab);
    FabDelivery d = next_frame(l);
    ck_assert_int_eq(d.frame.type, FAB_FRAME_LEASE);
    ck_assert_uint_eq(d.frame.tag, tag);
    return d;
}

START_TEST(leases)
{
    rig_create_topic(rig, "lease", 1, "segment.bytes=100000");
    Local l = local_open("lease");
    for (int i = 0; i < 10; i++) {
        Buf b = rig_batch(1000, 1000 * i, -1, -1);
        submit(&l, (FabSqe){.op = FAB_OP_PRODUCE, .handle = l.handle, .acks = -1}, b.data, b.size, FAB_CQE_ACKED);
        buf_deinit(&b);
    }
    FabDelivery d = lease(&l, 1500, 77); /* inside the second batch */
    int64_t range[3];
    ck_assert_int_eq(d.frame.kafka_error, 0);
    ck_assert_uint_ge(d.frame.size, sizeof(range));
    ck_assert_int_ge(d.fds[0], 0);
    memcpy(range, d.payload, sizeof(range));
    fab_client_release(l.fab, d.release_at);
    size_t size = (size_t)(range[1] - range[0]);
    uint8_t *bytes = malloc(size);
    ck_assert_int_eq(pread(d.fds[0], bytes, size, range[0]), (ssize_t)size);
    ck_assert_int_eq(write(d.fds[0], "x", 1), -1); /* read-only */
    ck_assert_int_eq(walk((KBytes){bytes, (int32_t)size}, 1500, 0, 0), d.frame.next_offset - 1500);
    close(d.fds[0]);
    free(bytes);
    FabSqe release = {.op = FAB_OP_LEASE_RELEASE, .handle = l.handle, .user_data = 77};
    ck_assert_int_eq(fab_client_submit(l.fab, &release), 0);
    fab_client_flush(l.fab);
    ck_assert_int_eq(await(&l, FAB_CQE_DONE).kafka_error, 0);
    d = lease(&l, 9999, 78); /* in the active segment */
    ck_assert_int_ne(d.frame.kafka_error, 0);
    ck_assert_int_lt(d.fds[0], 0);
    fab_client_free(l.fab);
}
END_TEST

START_TEST(client_may_not_write_internal_topics)
{
    rig_create_topic(rig, "__consumer_offsets", 1, "cleanup.policy=compact");
    Local l = local_open("__consumer_offsets");
    Buf b = rig_batch(1, 0, -1, -1);
    ck_assert_int_eq(submit(&l, (FabSqe){.op = FAB_OP_PRODUCE, .handle = l.handle, .acks = -1}, b.data, b.size, FAB_CQE_ACKED).kafka_error, 17);
    int fd = rig_connect(rig);
    ck_assert_int_eq(produce(fd, 9, "__consumer_offsets", 0, &b).error_code, 17);
    close(fd);
    fab_client_free(l.fab);
    buf_deinit(&b);
}
END_TEST

int main(int argc, char **argv)
{
    const ProcessTest tests[] = {
        {"local_produce_and_consume", local_produce_and_consume},
        {"slow_reader", slow_reader},
        {"local_min_bytes_and_max_wait", local_min_bytes_and_max_wait},
        {"leases", leases},
        {"client_may_not_write_internal_topics", client_may_not_write_internal_topics},
    };
    return process_main(argc, argv, "local", tests, ARRAY_SIZE(tests));
}
