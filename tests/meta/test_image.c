/* What each record does to an image, what is refused, and that equal histories give equal images. */

#include <check.h>
#include <errno.h>

#include "meta/rows.h"
#include "tests/meta/records.h"

static MetaImage *image;
static uint64_t next_index;

static void setup(void)
{
    ck_assert_int_eq(meta_image_new(&image), 0);
    next_index = 1;
}

static void teardown(void)
{
    image = meta_image_free(image);
}

static int apply(Buf b)
{
    int r = meta_apply(image, next_index, b.data, b.size);
    if (r == 0)
        next_index++;
    buf_deinit(&b);
    return r;
}

/* A refused record leaves everything as it was. */
static void refused(Buf b)
{
    uint64_t before = meta_digest(image);
    ck_assert_int_eq(meta_apply(image, next_index, b.data, b.size), -EBADMSG);
    ck_assert_uint_eq(meta_digest(image), before);
    buf_deinit(&b);
}

START_TEST(topics_partitions_and_lookups)
{
    int32_t replicas[] = {3, 1, 2};
    ck_assert_int_eq(apply(rec_topic("beta", uuid_of(2))), 0);
    ck_assert_int_eq(apply(rec_topic("alpha", uuid_of(9))), 0);
    ck_assert_int_eq(apply(rec_topic(META_TOPIC_OFFSETS, uuid_of(1))), 0);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(apply(rec_partition(uuid_of(9), i, replicas, 3, 2, 3)), 0);
    const MetaTopic *t = meta_topic_next(image, NULL);
    ck_assert_str_eq(t->name, META_TOPIC_OFFSETS);
    ck_assert(t->internal);
    t = meta_topic_next(image, t);
    ck_assert_str_eq(t->name, "alpha");
    ck_assert(!t->internal);
    ck_assert_str_eq(meta_topic_next(image, t)->name, "beta");
    ck_assert_ptr_null(meta_topic_next(image, meta_topic_next(image, t)));
    ck_assert_ptr_eq(meta_topic(image, "alphabet", 5), t);
    ck_assert_ptr_null(meta_topic(image, "alphabet", 8));
    Uuid id = uuid_of(9);
    ck_assert_ptr_eq(meta_topic_by_id(image, &id), t);
    const MetaPartition *p = meta_partition(image, "alpha", 5, 4);
    ck_assert_int_eq(p->leader, 3);
    ck_assert_int_eq(p->n_isr, 2);
    ck_assert_int_eq(p->isr[1], 1);
    ck_assert(uuid_is_zero(&p->directories[2]));
    ck_assert_ptr_null(meta_partition(image, "alpha", 5, 5));
    ck_assert_ptr_null(meta_partition(image, "alpha", 5, -1));
    ck_assert_uint_eq(meta_partitions(image), 5);
    ck_assert_int_eq(apply(rec_remove(id)), 0);
    ck_assert_ptr_null(meta_topic(image, "alpha", 5));
    ck_assert_uint_eq(meta_partitions(image), 0);
    ck_assert_uint_eq(meta_topics(image), 2);
}
END_TEST

START_TEST(partition_changes_move_epochs)
{
    int32_t replicas[] = {1, 2};
    apply(rec_topic("t", uuid_of(1)));
    apply(rec_partition(uuid_of(1), 0, replicas, 2, 2, 1));
    KMetaPartitionChangeRecord m;
    k_message_init(&k_meta_partition_change_record, &m);
    ck_assert_int_eq(m.leader, -2); /* the schema's default: unchanged */
    m.topic_id = uuid_of(1);
    m.isr = (KInt32Array){replicas, 1};
    ck_assert_int_eq(apply(rec(&k_meta_partition_change_record, &m)), 0);
    const MetaPartition *p = meta_partition(image, "t", 1, 0);
    ck_assert_int_eq(p->leader_epoch, 0);
    ck_assert_int_eq(p->partition_epoch, 1);
    ck_assert_int_eq(p->n_isr, 1);
    m.isr = (KInt32Array){NULL, -1};
    m.leader = 1; /* the same leader again: still an election (C7) */
    ck_assert_int_eq(apply(rec(&k_meta_partition_change_record, &m)), 0);
    p = meta_partition(image, "t", 1, 0);
    ck_assert_int_eq(p->leader_epoch, 1);
    ck_assert_int_eq(p->partition_epoch, 2);
    ck_assert_int_eq(p->n_isr, 1);
    m.leader = 2; /* not in the ISR */
    refused(rec(&k_meta_partition_change_record, &m));
    m.leader = -1;
    m.isr = (KInt32Array){NULL, 0};
    m.elr = (KInt32Array){replicas, 1};
    ck_assert_int_eq(apply(rec(&k_meta_partition_change_record, &m)), 0);
    p = meta_partition(image, "t", 1, 0);
    ck_assert_int_eq(p->leader, -1);
    ck_assert_int_eq(p->elr[0], 1);
    m.partition = 1;
    refused(rec(&k_meta_partition_change_record, &m));
}
END_TEST

START_TEST(contradictions_are_refused)
{
    int32_t replicas[] = {1, 2, 2}, foreign[] = {1, 7};
    ck_assert_int_eq(apply(rec_cluster("c")), 0);
    refused(rec_cluster("d"));
    ck_assert_int_eq(apply(rec_topic("t", uuid_of(1))), 0);
    refused(rec_topic("t", uuid_of(2)));
    refused(rec_topic("u", uuid_of(1)));
    refused(rec_topic("..", uuid_of(3)));
    refused(rec_topic("a/b", uuid_of(3)));
    refused(rec_topic("u", (Uuid){{0}}));
    refused(rec_partition(uuid_of(2), 0, replicas, 2, 2, 1));
    refused(rec_partition(uuid_of(1), 1, replicas, 2, 2, 1)); /* gap */
    refused(rec_partition(uuid_of(1), 0, replicas, 3, 2, 1)); /* twice the same replica */
    refused(rec_partition(uuid_of(1), 0, replicas, 2, 1, 2)); /* leader outside the ISR */
    refused(rec_partition(uuid_of(1), 0, replicas, 0, 0, -1));
    KMetaPartitionRecord m = {.topic_id = uuid_of(1), .replicas = {replicas, 2}, .isr = {foreign, 2}, .leader = 1};
    refused(rec(&k_meta_partition_record, &m));
    m = (KMetaPartitionRecord){.topic_id = uuid_of(1), .replicas = {replicas, 2}, .isr = {replicas, 1}, .elr = {replicas, 1},
                               .leader = 1};
    refused(rec(&k_meta_partition_record, &m)); /* in ISR and ELR */
    refused(rec_remove(uuid_of(5)));
    refused(rec_config(2, "unknown", "retention.ms", "1"));
    refused(rec_config(3, "t", "retention.ms", "1"));
    refused(rec_config(4, "x1", "log.retention.ms", "1"));
    refused(rec_broker_change(1, 1, 1, 0));
    ck_assert_int_eq(apply(rec_producer_ids(1000)), 0);
    refused(rec_producer_ids(999));
    KMetaUnregisterBrokerRecord u = {.broker_id = 1, .broker_epoch = 1};
    refused(rec(&k_meta_unregister_broker_record, &u));
    refused((Buf){.data = memcpy(malloc(3), "\x93\x63\x00", 3), .size = 3, .capacity = 3}); /* type 99 */
    refused((Buf){.data = memcpy(malloc(1), "\xc1", 1), .size = 1, .capacity = 1});
    ck_assert_int_eq(meta_apply(image, meta_index(image), "\x93\x01\x00\x00", 4), -EBADMSG); /* index not above */
}
END_TEST

START_TEST(truncated_records_are_refused)
{
    int32_t replicas[] = {1, 2};
    apply(rec_topic("t", uuid_of(1)));
    Buf whole = rec_partition(uuid_of(1), 0, replicas, 2, 2, 1);
    for (size_t n = 0; n < whole.size; n++)
        refused((Buf){.data = memcpy(malloc(n + 1), whole.data, n), .size = n, .capacity = n + 1});
    ck_assert_int_eq(apply(whole), 0);
}
END_TEST

START_TEST(answers_take_turns)
{
    Uuid sender = uuid_of(3), other = uuid_of(4);
    for (int i = 0; i <= META_ANSWERS_MAX; i++)
        ck_assert_int_eq(apply(rec_answer(i, 1000 + i, 5)), 0);
    ck_assert_ptr_null(meta_answer(image, &sender, 1000)); /* the oldest made room */
    ck_assert_ptr_null(meta_answer(image, &other, 1001));
    ck_assert_uint_eq(meta_answer(image, &sender, 1001)->size, 5);
    ck_assert_int_eq(meta_answer(image, &sender, 1000 + META_ANSWERS_MAX)->number, META_ANSWERS_MAX);
    ck_assert_int_eq(meta_next_answer(image), META_ANSWERS_MAX + 1);
    refused(rec_answer(META_ANSWERS_MAX, 7, 5)); /* this number was given */
    refused(rec_answer(0, 7, 5));
    refused(rec_answer(-1, 7, 5));
    refused(rec_answer(META_ANSWERS_MAX + 1, 7, 0));
    refused(rec_answer(META_ANSWERS_MAX + 1, 7, META_ANSWER_SIZE_MAX + 1));
    ck_assert_int_eq(apply(rec_answer(META_ANSWERS_MAX + 1, 7, META_ANSWER_SIZE_MAX)), 0);
}
END_TEST

START_TEST(brokers_and_their_configs)
{
    ck_assert_int_eq(apply(rec_register(3, 30, "r")), 0);
    ck_assert_int_eq(apply(rec_register(1, 10, NULL)), 0);
    ck_assert_int_eq(meta_broker_next(image, NULL)->id, 1);
    ck_assert_int_eq(meta_broker(image, 3)->epoch, 1);
    ck_assert(meta_broker(image, 3)->fenced);
    ck_assert_int_eq(apply(rec_broker_change(3, 1, -1, 1)), 0);
    ck_assert(!meta_broker(image, 3)->fenced && meta_broker(image, 3)->in_controlled_shutdown);
    refused(rec_broker_change(3, 2, 1, 0)); /* an older incarnation's epoch */
    ck_assert_int_eq(apply(rec_register(3, 31, "r")), 0);
    ck_assert(meta_broker(image, 3)->fenced && !meta_broker(image, 3)->in_controlled_shutdown);
    uint64_t before = meta_digest(image);
    ck_assert_int_eq(apply(rec_config(4, "", "log.retention.ms", "5")), 0);
    ck_assert_str_eq(meta_config_value(meta_broker_configs(image, -1), "log.retention.ms"), "5");
    ck_assert_ptr_null(meta_broker_configs(image, 3));
    ck_assert_uint_ne(meta_digest(image), before);
    ck_assert_int_eq(apply(rec_config(4, "", "log.retention.ms", NULL)), 0);
    ck_assert_ptr_null(meta_broker_configs(image, -1));
}
END_TEST

static int reapply(void *userdata, const MetaRowKey *key, uint64_t index, const void *record, size_t size)
{
    MetaImage *to = userdata;
    (void)key;
    return meta_apply_record(to, index, record, size);
}

/* Incremental application, replay of all records, and the rows of the tables agree. */
START_TEST(equal_histories_give_equal_digests)
{
    enum { STEPS = 1500 };
    Buf *all = calloc(STEPS, sizeof(Buf));
    MetaImage *replayed, *loaded;
    uint64_t serial = 0;
    Rng rng;
    rng_init(&rng, (uint64_t)_i + 77);
    all[0] = rec_cluster("cluster");
    for (int i = 0; i < STEPS; i++) {
        if (i > 0)
            all[i] = rec_random(image, &rng, &serial);
        ck_assert_int_eq(meta_apply(image, (uint64_t)i + 1, all[i].data, all[i].size), 0);
    }
    ck_assert_uint_gt(meta_partitions(image), 10);
    meta_image_new(&replayed);
    meta_image_new(&loaded);
    for (int i = 0; i < STEPS; i++) {
        ck_assert_int_eq(meta_apply(replayed, (uint64_t)i + 1, all[i].data, all[i].size), 0);
        buf_deinit(&all[i]);
    }
    ck_assert_uint_eq(meta_digest(replayed), meta_digest(image));
    ck_assert_int_eq(meta_rows_each(image, reapply, loaded), 0);
    loaded->index = image->index;
    ck_assert_uint_eq(meta_digest(loaded), meta_digest(image));
    meta_image_free(replayed);
    meta_image_free(loaded);
    free(all);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("image");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, topics_partitions_and_lookups);
    tcase_add_test(t, partition_changes_move_epochs);
    tcase_add_test(t, contradictions_are_refused);
    tcase_add_test(t, truncated_records_are_refused);
    tcase_add_test(t, answers_take_turns);
    tcase_add_test(t, brokers_and_their_configs);
    tcase_add_loop_test(t, equal_histories_give_equal_digests, 0, 3);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
