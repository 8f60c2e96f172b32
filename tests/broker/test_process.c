/*
 * The broker process from outside: what a Kafka client and a local session see, in the good case and the hostile one.
 * Supervisor and controller are stand-ins (rig.c).
 */

#include <arpa/inet.h>
#include <check.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "shm/counters.h"
#include "shm/fab_client.h"
#include "tests/broker/rig.h"
#include "wire/batch.h"
#include "wire/compress.h"
#include "wire/messages.h"

static Rig *rig;
static const char *exe;

/* --- shorthands --- */

typedef KProduceResponseResponsesPartitionResponses Produced;
typedef KFetchResponseResponsesPartitions Fetched;

static void send_produce(int fd, int16_t version, int16_t acks, const char *topic, int32_t partition, const Buf *batch)
{
    KProduceRequestTopicDataPartitionData p = {.index = partition, .records = {batch->data, (int32_t)batch->size}};
    KProduceRequestTopicData t = {.name = k_str(topic), .partition_data = {&p, 1}};
    KProduceRequest q = {.transactional_id = K_STR_NULL, .acks = acks, .timeout_ms = 5000, .topic_data = {&t, 1}};
    rig_send(fd, 0, version, &q);
}

static Produced produce(int fd, int16_t version, const char *topic, int32_t partition, const Buf *batch)
{
    Arena arena = ARENA_NULL;
    KProduceRequestTopicDataPartitionData p = {.index = partition, .records = {batch->data, (int32_t)batch->size}};
    KProduceRequestTopicData t = {.name = k_str(topic), .partition_data = {&p, 1}};
    KProduceRequest q = {.transactional_id = K_STR_NULL, .acks = -1, .timeout_ms = 5000, .topic_data = {&t, 1}};
    KProduceResponse a;
    rig_ask(fd, 0, version, &q, &arena, &a);
    ck_assert_int_eq(a.responses.n, 1);
    ck_assert_int_eq(a.responses.items[0].partition_responses.n, 1);
    Produced result = a.responses.items[0].partition_responses.items[0];
    result.record_errors.items = NULL;
    result.error_message = K_STR_NULL;
    arena_deinit(&arena);
    return result;
}

static Fetched fetch(int fd, int16_t version, const char *topic, int64_t offset, int32_t wait_ms, int32_t min_bytes, int32_t max_bytes,
                     Arena *arena)
{
    KFetchRequestTopicsPartitions p = {.fetch_offset = offset,
                                       .partition_max_bytes = max_bytes,
                                       .current_leader_epoch = -1,
                                       .last_fetched_epoch = -1,
                                       .high_watermark = INT64_MAX};
    KFetchRequestTopics t = {.topic = k_str(topic), .partitions = {&p, 1}};
    KFetchRequest q = {.replica_id = -1,
                       .max_wait_ms = wait_ms,
                       .min_bytes = min_bytes,
                       .max_bytes = INT32_MAX,
                       .session_epoch = -1,
                       .topics = {&t, 1},
                       .cluster_id = K_STR_NULL};
    KFetchResponse a;
    rig_ask(fd, 1, version, &q, arena, &a);
    ck_assert_int_eq(a.responses.n, 1);
    ck_assert_int_eq(a.responses.items[0].partitions.n, 1);
    ck_assert_int_ge(a.responses.items[0].partitions.items[0].records.len, 0); /* null would break librdkafka */
    return a.responses.items[0].partitions.items[0];
}

/* Checks CRC, order and values; returns the number of records at or past `from`. */
static int walk(KBytes records, int64_t from, int64_t first_value_offset, int first_value)
{
    const uint8_t *at = records.ptr;
    size_t left = (size_t)records.len;
    int n = 0;
    while (left > 0) {
        BatchHeader h;
        BatchIter it;
        Record r;
        ck_assert_int_eq(batch_header_decode(at, left, &h), 0);
        ck_assert_uint_le(batch_total_size(&h), left);
        ck_assert(batch_crc_is_valid(at, &h));
        batch_iter_init(&it, &h, at + BATCH_HEADER_SIZE, batch_total_size(&h) - BATCH_HEADER_SIZE);
        while (batch_iter_next(&it, &r) == 1) {
            char want[24];
            int size = snprintf(want, sizeof(want), "v%d", first_value + (int)(r.offset - first_value_offset));
            if (r.offset < from)
                continue;
            ck_assert_int_eq(r.value_size, size);
            ck_assert_mem_eq(r.value, want, (size_t)size);
            n++;
        }
        at += batch_total_size(&h);
        left -= batch_total_size(&h);
    }
    return n;
}

static void answers_quickly(void)
{
    int fd = rig_connect(rig);
    Arena arena = ARENA_NULL;
    KApiVersionsRequest q = {.client_software_name = k_str("t"), .client_software_version = k_str("1")};
    KApiVersionsResponse a;
    int64_t start_ms = clock_mono_ms();
    rig_ask(fd, 18, 3, &q, &arena, &a);
    ck_assert_int_eq(a.error_code, 0);
    ck_assert_int_lt(clock_mono_ms() - start_ms, 2000);
    arena_deinit(&arena);
    close(fd);
}

/* --- Kafka --- */

START_TEST(produce_and_fetch)
{
    int fd = rig_connect(rig);
    rig_create_topic(rig, "pf", 2, NULL);
    for (int i = 0; i < 3; i++) {
        Buf b = rig_batch(10, 10 * i, -1, -1);
        Produced p = produce(fd, (int16_t)(3 + 4 * i), "pf", 0, &b); /* v3, v7, v11 */
        ck_assert_int_eq(p.error_code, 0);
        ck_assert_int_eq(p.base_offset, 10 * i);
        ck_assert_int_eq(p.log_append_time_ms, -1);
        buf_deinit(&b);
    }
    for (int16_t version = 4; version <= 12; version++) {
        Arena arena = ARENA_NULL;
        Fetched f = fetch(fd, version, "pf", 15, 0, 1, 1 << 20, &arena); /* inside the second batch */
        ck_assert_int_eq(f.error_code, 0);
        ck_assert_int_eq(f.high_watermark, 30);
        ck_assert_int_eq(walk(f.records, 15, 0, 0), 15);
        f = fetch(fd, version, "pf", 0, 0, 1, 1, &arena); /* smaller than a batch: one whole batch all the same */
        ck_assert_int_eq(walk(f.records, 0, 0, 0), 10);
        f = fetch(fd, version, "pf", 30, 0, 1, 1 << 20, &arena);
        ck_assert_int_eq(f.error_code, 0);
        ck_assert_int_eq(f.records.len, 0);
        f = fetch(fd, version, "pf", 31, 0, 1, 1 << 20, &arena);
        ck_assert_int_eq(f.error_code, 1);
        f = fetch(fd, version, "no-such-topic", 0, 0, 1, 1 << 20, &arena);
        ck_assert_int_eq(f.error_code, 3);
        arena_deinit(&arena);
    }
    close(fd);
}
END_TEST

START_TEST(fetch_waits_for_data)
{
    int fd = rig_connect(rig), writer = rig_connect(rig);
    Arena arena = ARENA_NULL;
    rig_create_topic(rig, "wait", 1, NULL);
    int64_t start_ms = clock_mono_ms();
    Fetched f = fetch(fd, 11, "wait", 0, 150, 1, 1 << 20, &arena);
    ck_assert_int_ge(clock_mono_ms() - start_ms, 140);
    ck_assert_int_eq(f.records.len, 0);

    KFetchRequestTopicsPartitions p = {.partition_max_bytes = 1 << 20, .current_leader_epoch = -1};
    KFetchRequestTopics t = {.topic = k_str("wait"), .partitions = {&p, 1}};
    KFetchRequest q = {
        .replica_id = -1, .max_wait_ms = 20000, .min_bytes = 200, .max_bytes = INT32_MAX, .session_epoch = -1, .topics = {&t, 1}};
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    rig_send(fd, 1, 4, &q);
    Buf b = rig_batch(1, 0, -1, -1);
    produce(writer, 7, "wait", 0, &b); /* fewer than min_bytes */
    ck_assert_int_eq(poll(&readable, 1, 100), 0);
    produce(writer, 7, "wait", 0, &b);
    produce(writer, 7, "wait", 0, &b);
    ck_assert_int_eq(poll(&readable, 1, 5000), 1);
    buf_deinit(&b);
    close(fd);
    close(writer);
    arena_deinit(&arena);
}
END_TEST

START_TEST(deleting_a_topic_ends_waiting_fetches)
{
    int fd = rig_connect(rig);
    rig_create_topic(rig, "gone", 1, NULL);
    KFetchRequestTopicsPartitions p = {.partition_max_bytes = 1 << 20, .current_leader_epoch = -1};
    KFetchRequestTopics t = {.topic = k_str("gone"), .partitions = {&p, 1}};
    KFetchRequest q = {
        .replica_id = -1, .max_wait_ms = 20000, .min_bytes = 1, .max_bytes = INT32_MAX, .session_epoch = -1, .topics = {&t, 1}};
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    rig_send(fd, 1, 4, &q);
    ck_assert_int_eq(poll(&readable, 1, 50), 0);
    rig_delete_topic(rig, "gone");
    ck_assert_int_eq(poll(&readable, 1, 5000), 1);
    Buf b = rig_batch(1, 0, -1, -1);
    rig_create_topic(rig, "gone", 1, NULL); /* anew: empty, another id */
    int writer = rig_connect(rig);
    ck_assert_int_eq(produce(writer, 7, "gone", 0, &b).base_offset, 0);
    buf_deinit(&b);
    close(fd);
    close(writer);
}
END_TEST

START_TEST(refused_batches)
{
    int fd = rig_connect(rig);
    rig_create_topic(rig, "refuse", 1, "max.message.bytes=4000");
    rig_create_topic(rig, "compact", 1, "cleanup.policy=compact");
    Buf b = rig_batch(5, 0, -1, -1);
    ck_assert_int_eq(produce(fd, 9, "refuse", 1, &b).error_code, 3);
    b.data[70] ^= 1;
    ck_assert_int_eq(produce(fd, 9, "refuse", 0, &b).error_code, 2); /* CRC */
    b.data[70] ^= 1;
    b.data[16] = 1;
    ck_assert_int_eq(produce(fd, 9, "refuse", 0, &b).error_code, 87); /* magic */
    b.data[16] = 2;
    Buf large = rig_batch(300, 0, -1, -1);
    ck_assert_int_eq(produce(fd, 9, "refuse", 0, &large).error_code, 10);
    Buf none = BUF_NULL;
    none.data = b.data;
    ck_assert_int_eq(produce(fd, 9, "refuse", 0, &none).error_code, 87);

    uint8_t memory[256];
    BatchBuilder builder; /* no key */
    batch_builder_init(&builder, memory, sizeof(memory));
    RecordView v = {.timestamp = clock_wall_ms(), .key_size = -1, .value = "x", .value_size = 1};
    ck_assert_int_eq(batch_builder_append(&builder, &v), 0);
    Buf keyless = {.data = memory};
    keyless.size = batch_builder_finish(&builder, &BATCH_STAMP_NONE);
    ck_assert_int_eq(produce(fd, 9, "compact", 0, &keyless).error_code, 87);
    ck_assert_int_eq(produce(fd, 9, "refuse", 0, &keyless).error_code, 0);
    ck_assert_int_eq(produce(fd, 9, "refuse", 0, &b).base_offset, 1); /* what was refused left no gap */
    buf_deinit(&b);
    buf_deinit(&large);
    close(fd);
}
END_TEST

START_TEST(compressed_batches)
{
    int fd = rig_connect(rig);
    rig_create_topic(rig, "zip", 1, NULL);
    Buf plain = rig_batch(2000, 0, -1, -1);
    int64_t offset = 0;
    for (int codec = CODEC_GZIP; codec < CODEC_COUNT; codec++) {
        Buf b = BUF_NULL;
        ck_assert_int_eq(batch_compress(plain.data, plain.size, (BatchCodec)codec, INT32_MIN, &b), 0);
        Produced p = produce(fd, 9, "zip", 0, &b);
        ck_assert_int_eq(p.error_code, 0);
        ck_assert_int_eq(p.base_offset, offset);
        offset += 2000;
        if (codec == CODEC_ZSTD)
            ck_assert_int_eq(produce(fd, 6, "zip", 0, &b).error_code, 76); /* needs version 7 */
        b.data[BATCH_HEADER_SIZE] ^= 0x55; /* the codec's own magic */
        BatchHeader h;
        ck_assert_int_eq(batch_header_decode(b.data, b.size, &h), 0);
        h.crc = batch_crc_compute(b.data, &h); /* the damage is inside, the outside is sound */
        batch_header_encode(&h, b.data);
        ck_assert_int_ne(produce(fd, 9, "zip", 0, &b).error_code, 0);
        buf_deinit(&b);
    }
    Buf after = rig_batch(1, 0, -1, -1);
    ck_assert_int_eq(produce(fd, 9, "zip", 0, &after).base_offset, offset);
    buf_deinit(&after);
    buf_deinit(&plain);
    close(fd);
}
END_TEST

/* A batch that claims to be small and expands without end. */
START_TEST(compression_bomb)
{
    int fd = rig_connect(rig);
    rig_create_topic(rig, "bomb", 1, NULL);
    size_t size = 200u << 20;
    uint8_t *zeros = calloc(1, size);
    Buf packed = BUF_NULL, b = BUF_NULL;
    ck_assert_int_eq(codec_compress(CODEC_ZSTD, 1, zeros, size, &packed), 0);
    free(zeros);
    BatchHeader h = {.batch_length = (int32_t)(BATCH_HEADER_SIZE - BATCH_LOG_OVERHEAD + packed.size),
                     .leader_epoch = -1,
                     .magic = 2,
                     .attributes = CODEC_ZSTD,
                     .max_timestamp = clock_wall_ms(),
                     .base_timestamp = clock_wall_ms(),
                     .producer_id = -1,
                     .producer_epoch = -1,
                     .base_sequence = -1,
                     .records_count = 1};
    ck_assert_int_eq(buf_reserve(&b, BATCH_HEADER_SIZE), 0);
    b.size = BATCH_HEADER_SIZE;
    batch_header_encode(&h, b.data);
    ck_assert_int_eq(buf_append(&b, packed.data, packed.size), 0);
    h.crc = batch_crc_compute(b.data, &h);
    batch_header_encode(&h, b.data);
    int64_t start_ms = clock_mono_ms();
    send_produce(fd, 9, -1, "bomb", 0, &b);
    answers_quickly(); /* others are served while the worker expands */
    ck_assert_int_lt(clock_mono_ms() - start_ms, 2000);
    close(fd);
    fd = rig_connect(rig);
    ck_assert_int_eq(produce(fd, 9, "bomb", 0, &b).error_code, 10);
    close(fd);
    buf_deinit(&packed);
    buf_deinit(&b);
}
END_TEST

START_TEST(acks_0)
{
    int fd = rig_connect(rig), reader = rig_connect(rig);
    rig_create_topic(rig, "zero", 1, NULL);
    Buf b = rig_batch(3, 0, -1, -1);
    send_produce(fd, 9, 0, "zero", 0, &b);
    Buf again = rig_batch(3, 3, -1, -1);
    ck_assert_int_eq(produce(fd, 9, "zero", 0, &again).base_offset, 3); /* the first answer on the wire is the second one's */
    send_produce(fd, 9, 0, "no-such-topic", 0, &b);
    ck_assert(rig_is_closed(fd, 5000));
    buf_deinit(&b);
    buf_deinit(&again);
    close(fd);
    close(reader);
}
END_TEST

START_TEST(idempotent_producer_survives_a_crash)
{
    int fd = rig_connect(rig);
    Arena arena = ARENA_NULL;
    rig_create_topic(rig, "idem", 1, NULL);
    int64_t ids[3];
    for (int i = 0; i < 3; i++) { /* more than one block of the stand-in */
        KInitProducerIdRequest q = {.transactional_id = K_STR_NULL, .producer_id = -1, .producer_epoch = -1};
        KInitProducerIdResponse a;
        rig_ask(fd, 22, 4, &q, &arena, &a);
        ck_assert_int_eq(a.error_code, 0);
        ids[i] = a.producer_id;
        ck_assert(i == 0 || ids[i] != ids[i - 1]);
    }
    Buf b0 = rig_batch(4, 0, ids[0], 0), b1 = rig_batch(4, 4, ids[0], 4), gap = rig_batch(1, 9, ids[0], 9);
    ck_assert_int_eq(produce(fd, 9, "idem", 0, &b0).base_offset, 0);
    ck_assert_int_eq(produce(fd, 9, "idem", 0, &b1).base_offset, 4);
    ck_assert_int_eq(produce(fd, 9, "idem", 0, &gap).error_code, 45);
    close(fd);
    rig_kill(rig);
    rig_respawn(rig);
    fd = rig_connect(rig);
    Produced p = produce(fd, 9, "idem", 0, &b1); /* the answer was lost: sent again */
    ck_assert_int_eq(p.error_code, 0);
    ck_assert_int_eq(p.base_offset, 4);
    Fetched f = fetch(fd, 11, "idem", 0, 0, 1, 1 << 20, &arena);
    ck_assert_int_eq(f.high_watermark, 8);
    ck_assert_int_eq(walk(f.records, 0, 0, 0), 8);
    buf_deinit(&b0);
    buf_deinit(&b1);
    buf_deinit(&gap);
    arena_deinit(&arena);
    close(fd);
}
END_TEST

START_TEST(metadata_creates_topics)
{
    int fd = rig_connect(rig);
    Arena arena = ARENA_NULL;
    KMetadataRequestTopics t[] = {{.name = k_str("made")}, {.name = k_str("../evil")}, {.name = k_str("__consumer_offsets")}};
    KMetadataRequest q = {.topics = {t, 3}, .allow_auto_topic_creation = true};
    for (int16_t version = 1; version <= 12; version++) {
        KMetadataResponse a;
        rig_ask(fd, 3, version, &q, &arena, &a);
        ck_assert_int_eq(a.brokers.n, 1);
        ck_assert_int_eq(a.brokers.items[0].node_id, 1);
        ck_assert_int_eq(a.controller_id, 1);
        ck_assert_int_eq(a.topics.n, 3);
        ck_assert_int_eq(a.topics.items[0].error_code, 0);
        ck_assert_int_eq(a.topics.items[0].partitions.n, 1);
        ck_assert_int_eq(a.topics.items[0].partitions.items[0].leader_id, 1);
        ck_assert_int_eq(a.topics.items[1].error_code, 17);
        ck_assert_int_eq(a.topics.items[2].error_code, 3);
    }
    arena_deinit(&arena);
    close(fd);
}
END_TEST

/* --- local sessions --- */

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

/* --- hostile TCP --- */

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

static void start(void)
{
    rig = rig_start(&(RigOptions){.exe = exe, .conf = "log.pool.bytes = 0\n"});
}

static void stop(void)
{
    rig_stop(rig);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 64;
    exe = argv[1];
    alarm(120);
    Suite *suite = suite_create("process");
    TCase *tc = tcase_create("broker");
    tcase_set_timeout(tc, 60);
    tcase_add_unchecked_fixture(tc, start, stop);
    tcase_add_test(tc, produce_and_fetch);
    tcase_add_test(tc, fetch_waits_for_data);
    tcase_add_test(tc, deleting_a_topic_ends_waiting_fetches);
    tcase_add_test(tc, refused_batches);
    tcase_add_test(tc, compressed_batches);
    tcase_add_test(tc, compression_bomb);
    tcase_add_test(tc, acks_0);
    tcase_add_test(tc, idempotent_producer_survives_a_crash);
    tcase_add_test(tc, metadata_creates_topics);
    tcase_add_test(tc, local_produce_and_consume);
    tcase_add_test(tc, slow_reader);
    tcase_add_test(tc, client_may_not_write_internal_topics);
    tcase_add_test(tc, impossible_frames);
    tcase_add_test(tc, malformed_requests);
    tcase_add_test(tc, half_frames_cost_nothing);
    tcase_add_test(tc, too_new_api_versions);
    tcase_add_test(tc, pipelined_requests);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
