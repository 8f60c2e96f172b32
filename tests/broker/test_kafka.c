/* What a Kafka client sees of the broker process. Supervisor and controller are stand-ins (rig.c). */

#include <check.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>
#include "base/clock.h"
#include "tests/broker/client.h"
#include "wire/batch.h"
#include "wire/compress.h"

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

START_TEST(log_append_time)
{
    int fd = rig_connect(rig);
    Arena arena = ARENA_NULL;
    rig_create_topic(rig, "lat", 1, "message.timestamp.type=LogAppendTime");
    Buf b = rig_batch(4, 0, -1, -1);
    int64_t before_ms = clock_wall_ms();
    Produced p = produce(fd, 7, "lat", 0, &b);
    ck_assert_int_ge(p.log_append_time_ms, before_ms);
    Fetched f = fetch(fd, 11, "lat", 0, 0, 1, 1 << 20, &arena);
    BatchHeader h;
    ck_assert_int_eq(batch_header_decode(f.records.ptr, (size_t)f.records.len, &h), 0);
    ck_assert_int_eq(h.max_timestamp, p.log_append_time_ms);
    ck_assert(h.attributes & BATCH_ATTR_LOG_APPEND);
    ck_assert_int_eq(walk(f.records, 0, 0, 0), 4); /* checks the new CRC */
    buf_deinit(&b);
    arena_deinit(&arena);
    close(fd);
}
END_TEST

START_TEST(topic_chooses_the_codec)
{
    static const int codecs[] = {CODEC_NONE, CODEC_GZIP, CODEC_ZSTD};
    int fd = rig_connect(rig);
    rig_create_topic(rig, "always-zstd", 1, "compression.type=zstd");
    Buf plain = rig_batch(500, 0, -1, -1);
    for (size_t i = 0; i < ARRAY_SIZE(codecs); i++) {
        Buf b = BUF_NULL, records = BUF_NULL;
        Arena arena = ARENA_NULL;
        BatchHeader h;
        ck_assert_int_eq(batch_compress(plain.data, plain.size, (BatchCodec)codecs[i], INT32_MIN, &b), 0);
        int64_t offset = produce(fd, 9, "always-zstd", 0, &b).base_offset;
        ck_assert_int_eq(offset, (int64_t)i * 500);
        Fetched f = fetch(fd, 11, "always-zstd", offset, 0, 1, 1 << 20, &arena);
        ck_assert_int_eq(batch_header_decode(f.records.ptr, (size_t)f.records.len, &h), 0);
        ck_assert_int_eq(h.attributes & BATCH_ATTR_CODEC_MASK, CODEC_ZSTD);
        ck_assert(batch_crc_is_valid(f.records.ptr, &h));
        ck_assert_int_eq(h.records_count, 500);
        const uint8_t *at = (const uint8_t *)f.records.ptr + BATCH_HEADER_SIZE;
        ck_assert_int_eq(codec_decompress(CODEC_ZSTD, at, batch_total_size(&h) - BATCH_HEADER_SIZE, 1 << 24, &records), 0);
        ck_assert_uint_eq(records.size, plain.size - BATCH_HEADER_SIZE);
        ck_assert_mem_eq(records.data, plain.data + BATCH_HEADER_SIZE, records.size);
        buf_deinit(&b);
        buf_deinit(&records);
        arena_deinit(&arena);
    }
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

START_TEST(topic_replaced_while_the_broker_was_dead)
{
    Buf b = rig_batch(5, 0, -1, -1);
    rig_create_topic(rig, "phoenix", 1, NULL);
    int fd = rig_connect(rig);
    produce(fd, 9, "phoenix", 0, &b);
    close(fd);
    rig_kill(rig);
    rig_replace_topic(rig, "phoenix");
    rig_respawn(rig);
    fd = rig_connect(rig);
    ck_assert_int_eq(produce(fd, 9, "phoenix", 0, &b).base_offset, 0); /* nothing of the old topic shows */
    buf_deinit(&b);
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

int main(int argc, char **argv)
{
    const ProcessTest tests[] = {
        {"produce_and_fetch", produce_and_fetch},
        {"fetch_waits_for_data", fetch_waits_for_data},
        {"deleting_a_topic_ends_waiting_fetches", deleting_a_topic_ends_waiting_fetches},
        {"refused_batches", refused_batches},
        {"compressed_batches", compressed_batches},
        {"log_append_time", log_append_time},
        {"topic_chooses_the_codec", topic_chooses_the_codec},
        {"compression_bomb", compression_bomb},
        {"acks_0", acks_0},
        {"idempotent_producer_survives_a_crash", idempotent_producer_survives_a_crash},
        {"topic_replaced_while_the_broker_was_dead", topic_replaced_while_the_broker_was_dead},
        {"metadata_creates_topics", metadata_creates_topics},
    };
    return process_main(argc, argv, "kafka", tests, ARRAY_SIZE(tests));
}
