/*
 * topic.c against a broker that is this file: fab_link_send() is replaced by one that keeps the descriptors. Leadership comes
 * from a real metadata image.
 */

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "consumer-coord/topic.h"
#include "wire/batch.h"
#include "wire/compress.h"
#include "wire/error.h"

#define SENT_MAX 64
#define HANDLE   7

typedef struct Sent {
    FabSqe sqe;
    Buf payload;
} Sent;

static Sent sent[SENT_MAX];
static int n_sent, send_result;
static Loop *loop;
static OffsetsTopic *topic;
static MetaImage *image;
static uint64_t image_index;
static Buf story; /* what the callbacks were told */

int fab_link_send(FabLink *link, const FabSqe *sqe, const void *payload, size_t size)
{
    ck_assert_ptr_nonnull(link);
    if (send_result < 0)
        return send_result;
    ck_assert_int_lt(n_sent, SENT_MAX);
    sent[n_sent] = (Sent){.sqe = *sqe};
    buf_append(&sent[n_sent++].payload, payload, size);
    return 0;
}

static void on_partitions(void *u, int32_t n)
{
    (void)u;
    buf_printf(&story, "partitions %d;", n);
}
static void on_loading(void *u, int32_t p)
{
    (void)u;
    buf_printf(&story, "loading %d;", p);
}
static void on_record(void *u, int32_t p, KBytes key, KBytes value)
{
    (void)u;
    buf_printf(&story, "%d %.*s=%.*s;", p, key.len, (const char *)key.ptr, MAX(value.len, 0), (const char *)value.ptr);
}
static void on_loaded(void *u, int32_t p, uint64_t records, int64_t ms)
{
    (void)u, (void)ms;
    buf_printf(&story, "loaded %d with %d;", p, (int)records);
}
static void on_lost(void *u, int32_t p)
{
    (void)u;
    buf_printf(&story, "lost %d;", p);
}
static void on_written(void *u, uint64_t id, int16_t error)
{
    (void)u;
    buf_printf(&story, "written %d %s;", (int)id, k_error_name(error));
}

static FabLink *some_link(void)
{
    static int memory;
    return (FabLink *)(void *)&memory;
}

static void expect(const char *text)
{
    buf_append(&story, "", 1);
    ck_assert_str_eq((const char *)story.data, text);
    buf_clear(&story);
}

/* The next descriptor, oldest first. */
static Sent take(uint8_t op)
{
    ck_assert_int_gt(n_sent, 0);
    Sent s = sent[0];
    memmove(sent, sent + 1, (size_t)--n_sent * sizeof(sent[0]));
    ck_assert_int_eq(s.sqe.op, op);
    return s;
}

static uint64_t take_ud(uint8_t op)
{
    Sent s = take(op);
    buf_deinit(&s.payload);
    return s.sqe.user_data;
}

static void apply(const KMessage *m, const void *record)
{
    Buf b = BUF_NULL;
    ck_assert_int_eq(k_pack(m, 0, record, &b), 0);
    ck_assert_int_eq(meta_apply(image, ++image_index, b.data, b.size), 0);
    buf_deinit(&b);
}

static const Uuid topic_id = {{1}}, directory = {{2}};

static void make_topic(int32_t n, int32_t leader)
{
    apply(&k_meta_topic_record, &(KMetaTopicRecord){.name = k_str(OFFSETS_TOPIC_NAME), .topic_id = topic_id});
    for (int32_t p = 0; p < n; p++) {
        int32_t node = 1;
        Uuid dir = directory;
        KMetaPartitionRecord r = {.topic_id = topic_id, .partition = p, .replicas = {&node, 1}, .isr = {&node, 1},
                                  .leader = leader, .leader_epoch = 0, .directories = {&dir, 1}};
        apply(&k_meta_partition_record, &r);
    }
}

static void set_leader(int32_t partition, int32_t leader)
{
    KMetaPartitionChangeRecord r;
    k_message_init(&k_meta_partition_change_record, &r);
    r.topic_id = topic_id;
    r.partition = partition;
    r.leader = leader;
    apply(&k_meta_partition_change_record, &r);
    offsets_topic_image(topic, image);
}

static void setup(void)
{
    const OffsetsTopicOps ops = {.partitions = on_partitions, .loading = on_loading, .record = on_record,
                                 .loaded = on_loaded, .lost = on_lost, .written = on_written};
    ck_assert_int_eq(loop_new(&loop), 0);
    ck_assert_int_eq(meta_image_new(&image), 0);
    ck_assert_int_eq(offsets_topic_new(loop, 1, &ops, NULL, &topic), 0);
    send_result = 0;
    image_index = 0;
}

static void teardown(void)
{
    while (n_sent > 0)
        buf_deinit(&sent[--n_sent].payload);
    offsets_topic_free(topic);
    meta_image_free(image);
    loop_free(loop);
    buf_deinit(&story);
}

static void complete(uint64_t ud, uint16_t kind, int16_t error)
{
    offsets_topic_completion(topic, &(FabCqe){.user_data = ud, .kind = kind, .kafka_error = error, .base_offset = HANDLE});
}

/* One batch per record; "k=v", no '=': tombstone. */
static void add_batch(Buf *out, int64_t offset, const char *record, BatchCodec codec)
{
    uint8_t memory[512];
    BatchBuilder b;
    const char *equals = strchr(record, '=');
    RecordView r = {.key = record, .key_size = (int32_t)(equals ? equals - record : (ptrdiff_t)strlen(record)),
                    .value = equals ? equals + 1 : NULL, .value_size = equals ? (int32_t)strlen(equals + 1) : -1};
    batch_builder_init(&b, memory, sizeof(memory));
    ck_assert_int_eq(batch_builder_append(&b, &r), 0);
    BatchStamp stamp = BATCH_STAMP_NONE;
    size_t size = batch_builder_finish(&b, &stamp);
    size_t start = out->size;
    if (codec == CODEC_NONE)
        ck_assert_int_eq(buf_append(out, memory, size), 0);
    else
        ck_assert_int_eq(batch_compress(memory, size, codec, INT32_MIN, out), 0);
    batch_set_base_offset(out->data + start, offset);
}

static void frame(FabFrameType type, uint32_t generation, int32_t partition, int64_t next, int64_t hw, const Buf *payload)
{
    FabDelivery d = {
        .frame = {.type = (uint16_t)type, .handle = HANDLE, .partition = partition, .generation = generation, .next_offset = next,
                  .high_watermark = hw, .size = payload ? (uint32_t)payload->size : 0, .aux = type == FAB_FRAME_POSITION},
        .payload = payload ? payload->data : NULL,
    };
    offsets_topic_frame(topic, &d);
}

static FabSubscribe take_subscribe(int32_t partition, uint64_t *ret_ud)
{
    FabSubscribe want;
    Sent s = take(FAB_OP_SUBSCRIBE);
    ck_assert_int_eq(s.sqe.partition, partition);
    ck_assert_uint_eq(s.sqe.handle, HANDLE);
    ck_assert_uint_eq(s.payload.size, sizeof(want));
    memcpy(&want, s.payload.data, sizeof(want));
    buf_deinit(&s.payload);
    *ret_ud = s.sqe.user_data;
    return want;
}

static void write_one(uint64_t id, int32_t partition, const char *key)
{
    GroupRecord r = {.key = {key, (int32_t)strlen(key)}, .value = {"v", 1}};
    offsets_topic_write(topic, &(GroupEffect){.kind = GROUP_EFFECT_WRITE, .write_id = id, .partition = partition, .records = &r, .n_records = 1});
}

/* One partition, led, open, loaded. */
static void ready(void)
{
    uint64_t ud;
    make_topic(1, 1);
    offsets_topic_image(topic, image);
    offsets_topic_up(topic, some_link());
    complete(take_ud(FAB_OP_OPEN), FAB_CQE_DONE, K_NONE);
    FabSubscribe want = take_subscribe(0, &ud);
    frame(FAB_FRAME_POSITION, want.generation, 0, 0, 0, NULL);
    take_ud(FAB_OP_UNSUBSCRIBE);
    expect("partitions 1;loading 0;loading 0;loaded 0 with 0;");
}

START_TEST(loading)
{
    uint64_t ud;
    Buf b = BUF_NULL;
    make_topic(2, 1);
    offsets_topic_image(topic, image);
    expect("partitions 2;loading 0;loading 1;");
    offsets_topic_up(topic, some_link());
    complete(take_ud(FAB_OP_OPEN), FAB_CQE_DONE, K_NONE);
    FabSubscribe first = take_subscribe(0, &ud), second = take_subscribe(1, &ud);
    ck_assert_int_eq(first.offset, -2);
    expect("loading 0;loading 1;");
    add_batch(&b, 0, "a=1", CODEC_NONE);
    add_batch(&b, 1, "a=2", CODEC_ZSTD);
    frame(FAB_FRAME_BATCHES, first.generation, 0, 2, 3, &b); /* the high watermark is 3: not yet */
    expect("0 a=1;0 a=2;");
    frame(FAB_FRAME_BATCHES, first.generation + 1, 0, 9, 3, &b); /* of some other subscription */
    buf_clear(&b);
    add_batch(&b, 2, "a", CODEC_NONE);
    add_batch(&b, 3, "late=1", CODEC_NONE);
    frame(FAB_FRAME_BATCHES, first.generation, 0, 4, 4, &b);
    expect("0 a=;0 late=1;loaded 0 with 4;");
    take_ud(FAB_OP_UNSUBSCRIBE);
    frame(FAB_FRAME_BATCHES, first.generation, 0, 5, 5, &b); /* was on its way */
    frame(FAB_FRAME_POSITION, second.generation, 1, 0, 0, NULL);
    expect("loaded 1 with 0;");
    buf_deinit(&b);
}
END_TEST

START_TEST(damage_while_loading)
{
    uint64_t ud;
    Buf b = BUF_NULL;
    make_topic(1, 1);
    offsets_topic_image(topic, image);
    offsets_topic_up(topic, some_link());
    complete(take_ud(FAB_OP_OPEN), FAB_CQE_DONE, K_NONE);
    FabSubscribe want = take_subscribe(0, &ud);
    buf_clear(&story);
    FabDelivery d = {.frame = {.type = FAB_FRAME_ERROR, .handle = HANDLE, .generation = want.generation, .kafka_error = K_CORRUPT_MESSAGE, .next_offset = 5}};
    offsets_topic_frame(topic, &d); /* go on behind the hole */
    FabSubscribe again = take_subscribe(0, &ud);
    ck_assert_int_eq(again.offset, 5);
    add_batch(&b, 5, "x=1", CODEC_NONE);
    add_batch(&b, 6, "y=1", CODEC_NONE);
    b.data[b.size - 3] ^= 0xff; /* inside the last record */
    frame(FAB_FRAME_BATCHES, again.generation, 0, 7, 7, &b);
    expect("0 x=1;loaded 0 with 1;");
    buf_deinit(&b);
}
END_TEST

START_TEST(a_refused_subscription_is_tried_again)
{
    uint64_t ud;
    make_topic(1, 1);
    offsets_topic_image(topic, image);
    offsets_topic_up(topic, some_link());
    complete(take_ud(FAB_OP_OPEN), FAB_CQE_DONE, K_UNKNOWN_TOPIC_OR_PARTITION); /* the broker has not applied it yet */
    for (int i = 0; i < 50 && n_sent == 0; i++)
        loop_turn(loop, 10000000);
    complete(take_ud(FAB_OP_OPEN), FAB_CQE_DONE, K_NONE);
    take_subscribe(0, &ud);
    complete(ud, FAB_CQE_DONE, K_NOT_LEADER_OR_FOLLOWER);
    for (int i = 0; i < 50 && n_sent == 0; i++)
        loop_turn(loop, 10000000);
    FabSubscribe want = take_subscribe(0, &ud);
    frame(FAB_FRAME_POSITION, want.generation, 0, 0, 0, NULL);
    expect("partitions 1;loading 0;loading 0;loading 0;loaded 0 with 0;");
}
END_TEST

START_TEST(writes_survive_the_session)
{
    ready();
    write_one(1, 0, "a");
    write_one(2, 0, "b");
    uint64_t first = take_ud(FAB_OP_PRODUCE);
    take_ud(FAB_OP_PRODUCE);
    complete(first, FAB_CQE_CONSUMED, K_NONE); /* only copied */
    expect("");
    complete(first, FAB_CQE_ACKED, K_NONE);
    expect("written 1 NONE;");
    offsets_topic_down(topic);
    write_one(3, 0, "c");
    ck_assert_int_eq(n_sent, 0);
    offsets_topic_up(topic, some_link());
    complete(take_ud(FAB_OP_OPEN), FAB_CQE_DONE, K_NONE);
    uint64_t second = take_ud(FAB_OP_PRODUCE), third = take_ud(FAB_OP_PRODUCE);
    complete(second, FAB_CQE_ACKED, K_NONE);
    complete(third, FAB_CQE_ACKED, K_NOT_ENOUGH_REPLICAS);
    complete(third, FAB_CQE_ACKED, K_NONE); /* nobody waits for it */
    expect("written 2 NONE;written 3 NOT_ENOUGH_REPLICAS;");
    ck_assert_uint_eq(offsets_topic_writes(topic), 0);
}
END_TEST

START_TEST(a_batch_holds_all_records_of_a_write)
{
    ready();
    GroupRecord r[] = {{{"k1", 2}, {"v1", 2}}, {{"k2", 2}, K_BYTES_NULL}};
    offsets_topic_write(topic, &(GroupEffect){.write_id = 9, .partition = 0, .records = r, .n_records = 2, .timestamp_ms = 77});
    Sent s = take(FAB_OP_PRODUCE);
    BatchHeader h;
    BatchIter it;
    Record record;
    ck_assert_int_eq(s.sqe.acks, -1);
    ck_assert_int_eq(batch_header_decode(s.payload.data, s.payload.size, &h), 0);
    ck_assert(batch_crc_is_valid(s.payload.data, &h));
    ck_assert_int_eq(h.records_count, 2);
    ck_assert_int_eq(h.max_timestamp, 77);
    batch_iter_init(&it, &h, s.payload.data + BATCH_HEADER_SIZE, s.payload.size - BATCH_HEADER_SIZE);
    ck_assert_int_eq(batch_iter_next(&it, &record), 1);
    ck_assert_int_eq(record.value_size, 2);
    ck_assert_int_eq(batch_iter_next(&it, &record), 1);
    ck_assert_int_eq(record.value_size, -1);
    ck_assert_int_eq(batch_iter_next(&it, &record), 0);
    buf_deinit(&s.payload);
}
END_TEST

START_TEST(a_new_epoch_loads_again_after_the_writes)
{
    uint64_t ud;
    ready();
    write_one(1, 0, "a");
    uint64_t write = take_ud(FAB_OP_PRODUCE);
    set_leader(0, 1); /* the same host, the next epoch: somebody may have written between */
    expect("loading 0;");
    ck_assert_int_eq(n_sent, 0); /* what is in flight could land behind the high watermark that we would read to */
    complete(write, FAB_CQE_ACKED, K_NONE);
    FabSubscribe want = take_subscribe(0, &ud);
    frame(FAB_FRAME_POSITION, want.generation, 0, 1, 1, NULL);
    expect("loading 0;loaded 0 with 0;"); /* and nobody hears of the orphan */
}
END_TEST

START_TEST(leadership_goes_and_comes)
{
    uint64_t ud;
    ready();
    set_leader(0, -1);
    expect("lost 0;");
    set_leader(0, 1);
    expect("loading 0;loading 0;");
    FabSubscribe want = take_subscribe(0, &ud);
    set_leader(0, -1); /* in the midst of loading */
    take_ud(FAB_OP_UNSUBSCRIBE);
    frame(FAB_FRAME_POSITION, want.generation, 0, 0, 0, NULL);
    expect("lost 0;");
    apply(&k_meta_remove_topic_record, &(KMetaRemoveTopicRecord){.topic_id = topic_id});
    offsets_topic_image(topic, image);
    expect("");
}
END_TEST

START_TEST(what_cannot_be_sent_fails_at_the_end_of_the_turn)
{
    ready();
    send_result = -ENOBUFS;
    write_one(1, 0, "a");
    expect(""); /* not from within the call: the core is in the midst of a step */
    loop_turn(loop, 0);
    expect("written 1 COORDINATOR_NOT_AVAILABLE;");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("topic");
    TCase *c = tcase_create("topic");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, loading);
    tcase_add_test(c, damage_while_loading);
    tcase_add_test(c, a_refused_subscription_is_tried_again);
    tcase_add_test(c, writes_survive_the_session);
    tcase_add_test(c, a_batch_holds_all_records_of_a_write);
    tcase_add_test(c, a_new_epoch_loads_again_after_the_writes);
    tcase_add_test(c, leadership_goes_and_comes);
    tcase_add_test(c, what_cannot_be_sent_fails_at_the_end_of_the_turn);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
