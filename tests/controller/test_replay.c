/*
 * What a log beneath the core relies on: equal requests make equal records, records alone make the image, and a request that comes
 * again after its records are in the log gets its answer and changes nothing.
 */

#include "meta/rows.h"
#include "tests/controller/cluster.h"

#define NAMED (Uuid){{7}}

static Cluster c;

static void setup(void)
{
    cluster_open(&c);
    cluster_start(&c, 1);
    c.sender = NAMED;
    c.call = 1;
}

static void teardown(void)
{
    cluster_close(&c);
}

typedef struct Asked { /* one request, and what came of it */
    int16_t key, version;
    Buf body, answer, records; /* records: [size, bytes]... */
    int64_t call;
} Asked;

static void ask(Cluster *on, Asked *a)
{
    CtlRequest q = {.api_key = a->key, .api_version = a->version, .rights = ALL_RIGHTS, .body = a->body.data, .size = a->body.size,
                    .now_ms = on->now_ms, .sender = NAMED, .call = a->call};
    ck_assert_int_eq(ctl_decide(on->ctl, &q, &on->out), 0);
    buf_clear(&a->answer);
    buf_clear(&a->records);
    buf_append(&a->answer, on->out.response.data, on->out.response.size);
    for (size_t i = 0; i < on->out.n_records; i++) {
        buf_append(&a->records, &on->out.records[i].size, sizeof(size_t));
        buf_append(&a->records, on->out.bytes.data + on->out.records[i].offset, on->out.records[i].size);
    }
    cluster_apply(on);
}

static void replay(MetaImage *image, const Asked *a)
{
    for (size_t at = 0; at < a->records.size;) {
        size_t size;
        memcpy(&size, a->records.data + at, sizeof(size));
        ck_assert_int_eq(meta_apply(image, meta_index(image) + 1, a->records.data + at + sizeof(size), size), 0);
        at += sizeof(size) + size;
    }
}

static int reapply(void *userdata, const MetaRowKey *key, uint64_t index, const void *record, size_t size)
{
    (void)key;
    return meta_apply_record(userdata, index, record, size);
}

/* What the store would load. */
static MetaImage *copy_of(const MetaImage *from)
{
    MetaImage *image;
    ck_assert_int_eq(meta_image_new(&image), 0);
    ck_assert_int_eq(meta_rows_each(from, reapply, image), 0);
    image->index = from->index;
    ck_assert_uint_eq(meta_digest(image), meta_digest(from));
    return image;
}

static void restart(Cluster *on, uint64_t seed)
{
    CtlOptions o = {.conf = &on->conf, .node_id = 1, .seed = seed, .now_ms = on->now_ms};
    MetaImage *image = copy_of(image_of(on));
    ctl_free(on->ctl);
    ck_assert_int_eq(ctl_new(&o, image, &on->ctl), 0);
}

static void asked_free(Asked *a)
{
    buf_deinit(&a->body);
    buf_deinit(&a->answer);
    buf_deinit(&a->records);
}

static bool same(const Buf *a, const Buf *b)
{
    return a->size == b->size && (a->size == 0 || memcmp(a->data, b->data, a->size) == 0);
}

/* ---- requests ---- */

static void encode(Asked *a, int16_t key, int16_t version, const void *request)
{
    a->key = key;
    a->version = version;
    ck_assert_int_eq(k_encode(k_api_find(key)->request, version, request, &a->body), 0);
}

static void make_create(Asked *a, const char *name, int32_t partitions, int16_t version)
{
    KCreateTopicsRequestTopicsConfigs config = {.name = k_str("retention.ms"), .value = k_str("1000")};
    KCreateTopicsRequestTopics t[2] = {{.name = k_str(name), .num_partitions = partitions, .replication_factor = 1},
                                       {.name = k_str("no/name"), .num_partitions = 1, .replication_factor = 1}};
    KCreateTopicsRequest q = {.timeout_ms = 1000};
    t[0].configs.items = &config;
    t[0].configs.n = 1;
    q.topics.items = t;
    q.topics.n = 2;
    encode(a, K_API_CREATE_TOPICS, version, &q);
}

static void make_delete(Asked *a, const char *name)
{
    KDeleteTopicsRequestTopics t = {.name = k_str(name)};
    KDeleteTopicsRequest q = {.timeout_ms = 1000};
    q.topics.items = &t;
    q.topics.n = 1;
    encode(a, K_API_DELETE_TOPICS, 6, &q);
}

static void make_grow(Asked *a, const char *name, int32_t count)
{
    KCreatePartitionsRequestTopics t = {.name = k_str(name), .count = count};
    KCreatePartitionsRequest q = {.timeout_ms = 1000};
    t.assignments.n = -1;
    q.topics.items = &t;
    q.topics.n = 1;
    encode(a, K_API_CREATE_PARTITIONS, 2, &q);
}

static void make_alter(Asked *a, const char *name, const char *value)
{
    KIncrementalAlterConfigsRequestResourcesConfigs one = {.name = k_str("retention.ms"), .value = k_str(value)};
    KIncrementalAlterConfigsRequestResources r = {.resource_type = 2, .resource_name = k_str(name)};
    KIncrementalAlterConfigsRequest q = {0};
    r.configs.items = &one;
    r.configs.n = 1;
    q.resources.items = &r;
    q.resources.n = 1;
    encode(a, K_API_INCREMENTAL_ALTER_CONFIGS, 1, &q);
}

static void make_producer_ids(Asked *a, int64_t epoch)
{
    KAllocateProducerIdsRequest q = {.broker_id = 1, .broker_epoch = epoch};
    encode(a, K_API_ALLOCATE_PRODUCER_IDS, 0, &q);
}

static void make_random(Asked *a, Rng *rng, int64_t epoch)
{
    static const int16_t versions[] = {2, 4, 5, 7};
    char name[16], value[16];
    snprintf(name, sizeof(name), "t%d", (int)rng_below(rng, 12));
    snprintf(value, sizeof(value), "%d", (int)rng_below(rng, 9) - 2); /* -2 is refused */
    switch (rng_below(rng, 5)) {
    case 0:
        make_create(a, name, (int32_t)rng_below(rng, 5) + 1, versions[rng_below(rng, ARRAY_SIZE(versions))]);
        break;
    case 1:
        make_delete(a, name);
        break;
    case 2:
        make_grow(a, name, (int32_t)rng_below(rng, 9) + 1);
        break;
    case 3:
        make_alter(a, name, value);
        break;
    default:
        make_producer_ids(a, epoch);
        break;
    }
}

/* ---- tests ---- */

#define REQUESTS 400

/* Two cores of one seed, and an image that only hears the records. */
START_TEST(equal_requests_make_equal_images)
{
    Cluster twin;
    Rng rng;
    cluster_open(&twin);
    cluster_start(&twin, 1);
    MetaImage *follower = copy_of(image_of(&c));
    rng_init(&rng, (uint64_t)_i + 1);
    for (int i = 0; i < REQUESTS; i++) {
        Asked a = {.call = i}, b;
        make_random(&a, &rng, meta_broker(image_of(&c), 1)->epoch);
        b = (Asked){.key = a.key, .version = a.version, .call = a.call};
        buf_append(&b.body, a.body.data, a.body.size);
        ask(&c, &a);
        ask(&twin, &b);
        replay(follower, &a);
        ck_assert(same(&a.answer, &b.answer));
        ck_assert(same(&a.records, &b.records));
        ck_assert_uint_eq(meta_digest(follower), meta_digest(image_of(&c)));
        asked_free(&a);
        asked_free(&b);
    }
    meta_image_free(follower);
    cluster_close(&twin);
}
END_TEST

/* The controller dies after a commit and before its answer: its successor has the image alone. */
START_TEST(a_request_that_comes_again_is_answered_again)
{
    Rng rng;
    int changed = 0;
    rng_init(&rng, (uint64_t)_i + 100);
    for (int i = 0; i < REQUESTS; i++) {
        Asked a = {.call = i}, again;
        make_random(&a, &rng, meta_broker(image_of(&c), 1)->epoch);
        again = (Asked){.key = a.key, .version = a.version, .call = a.call};
        buf_append(&again.body, a.body.data, a.body.size);
        ask(&c, &a);
        restart(&c, rng_next(&rng));
        ask(&c, &again);
        if (a.key != K_API_ALLOCATE_PRODUCER_IDS) { /* another block is as good */
            changed += a.records.size > 0;
            ck_assert_msg(same(&a.answer, &again.answer), "api %d v%d is answered otherwise", a.key, a.version);
            ck_assert_uint_eq(again.records.size, 0);
        }
        asked_free(&a);
        asked_free(&again);
    }
    ck_assert_int_gt(changed, REQUESTS / 10);
}
END_TEST

static KafkaError create(const char *name, int64_t call)
{
    c.call = call;
    return cluster_create(&c, name, 1, 1).error_code;
}

START_TEST(names_of_requests_are_told_apart)
{
    ck_assert_int_eq(create("a", 1), K_NONE);
    ck_assert_int_eq(create("a", 1), K_NONE);
    ck_assert_int_eq(create("a", 2), K_TOPIC_ALREADY_EXISTS);
    c.sender.b[0]++; /* another incarnation counts from 1 again */
    ck_assert_int_eq(create("a", 1), K_TOPIC_ALREADY_EXISTS);
    c.sender = (Uuid){{0}}; /* without a name */
    ck_assert_int_eq(create("b", 1), K_NONE);
    ck_assert_int_eq(create("b", 1), K_TOPIC_ALREADY_EXISTS);
}
END_TEST

START_TEST(answers_are_bounded)
{
    char name[16];
    for (int i = 0; i <= META_ANSWERS_MAX; i++) {
        snprintf(name, sizeof(name), "t%d", i);
        ck_assert_int_eq(create(name, i), K_NONE);
    }
    ck_assert_int_eq(create("t1", 1), K_NONE);
    ck_assert_int_eq(create("t0", 0), K_TOPIC_ALREADY_EXISTS); /* the oldest has made room */
    restart(&c, 1);
    ck_assert_int_eq(create("t1", 1), K_NONE);
    ck_assert_int_eq(meta_next_answer(image_of(&c)), META_ANSWERS_MAX + 1);
}
END_TEST

START_TEST(an_answer_too_large_is_not_kept)
{
    enum { TOPICS = 3000 };
    char (*names)[40] = calloc(TOPICS, sizeof(*names));
    KCreateTopicsRequestTopics *t = calloc(TOPICS, sizeof(*t));
    KCreateTopicsRequest q = {.topics = {.items = t, .n = TOPICS}};
    KCreateTopicsResponse a;
    for (int i = 0; i < TOPICS; i++) {
        snprintf(names[i], sizeof(names[i]), "a-topic-with-a-long-name-%d", i);
        t[i] = (KCreateTopicsRequestTopics){.name = k_str(names[i]), .num_partitions = 1, .replication_factor = 1};
    }
    cluster_ask(&c, K_API_CREATE_TOPICS, 7, &q, &a);
    ck_assert_int_eq(a.topics.items[TOPICS - 1].error_code, K_NONE);
    ck_assert_int_eq(meta_next_answer(image_of(&c)), 0);
    cluster_ask(&c, K_API_CREATE_TOPICS, 7, &q, &a);
    ck_assert_int_eq(a.topics.items[0].error_code, K_TOPIC_ALREADY_EXISTS);
    free(names);
    free(t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("replay");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, equal_requests_make_equal_images, 0, 4);
    tcase_add_loop_test(t, a_request_that_comes_again_is_answered_again, 0, 4);
    tcase_add_test(t, names_of_requests_are_told_apart);
    tcase_add_test(t, answers_are_bounded);
    tcase_add_test(t, an_answer_too_large_is_not_kept);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
