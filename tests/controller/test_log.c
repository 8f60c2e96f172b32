/* The log with one voter: order, group commit, what a full map refuses, what is there after a restart. */

#include <sched.h>
#include <sys/mount.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "controller/log.h"
#include "tests/controller/cluster.h"

static char dir[] = "/tmp/leat-log-XXXXXX", meta_dir[64];
static Loop *loop;
static MetaLog *mlog;
static MetaImage *image;
static uint64_t committed, resolved[4096];
static bool resolved_ok[4096];
static size_t n_resolved, n_committed_calls, n_refused;

static void on_committed(void *userdata, uint64_t index)
{
    (void)userdata;
    ck_assert_uint_ge(index, committed);
    committed = index;
    n_committed_calls++;
}

static void on_resolved(void *userdata, uint64_t cookie, bool ok)
{
    (void)userdata;
    ck_assert_uint_lt(n_resolved, ARRAY_SIZE(resolved));
    resolved_ok[n_resolved] = ok;
    resolved[n_resolved++] = cookie;
}

static void on_refused(void *userdata, MetaImage *back)
{
    (void)userdata;
    meta_image_free(image);
    image = back;
    n_refused++;
}

static void on_map_used(void *userdata, uint32_t permille)
{
    (void)userdata;
    ck_assert_uint_le(permille, 1000);
}

static void on_failed(void *userdata, int error, const char *what)
{
    (void)userdata;
    fprintf(stderr, "%s: %s\n", what, strerror(-error));
    abort();
}

static const MetaLogOps ops = {on_committed, on_resolved, on_refused, on_map_used, on_failed};

static void open_log(size_t map_size)
{
    char why[256] = "";
    MetaLogOptions o = {.loop = loop, .meta_dir = meta_dir, .map_size = map_size, .ops = &ops};
    int r = meta_log_open(&o, &mlog, &image, why, sizeof(why));
    ck_assert_msg(r == 0, "%d %s", r, why);
    committed = meta_index(image);
    n_resolved = n_committed_calls = n_refused = 0;
}

static void close_log(void)
{
    mlog = meta_log_close(mlog);
    image = meta_image_free(image);
}

static void setup(void)
{
    memcpy(strrchr(dir, '-'), "-XXXXXX", 8);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(meta_dir, sizeof(meta_dir), "%s/meta", dir);
    ck_assert_int_eq(loop_new(&loop), 0);
}

static void teardown(void)
{
    close_log();
    loop_free(loop);
    ck_assert_int_eq(fs_remove_tree(dir), 0);
}

/* n config records with a value of `size` bytes, applied to our image as the server does. */
static int propose(uint64_t cookie, size_t n, size_t size)
{
    Buf bytes = BUF_NULL;
    struct MetaProposalRecord records[64];
    char *value = malloc(size + 1), name[32];
    uint64_t first = 0, want = meta_index(image) + 1;
    memset(value, 'v', size);
    value[size] = 0;
    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof(name), "key.%llu.%zu", (unsigned long long)cookie, i);
        KMetaConfigRecord m = {.resource_type = 4, .resource_name = {"", 0}, .name = k_str(name), .value = k_str(value)};
        records[i].offset = bytes.size;
        ck_assert_int_eq(k_pack(&k_meta_config_record, 0, &m, &bytes), 0);
        records[i].size = bytes.size - records[i].offset;
    }
    MetaProposal p = {.bytes = bytes.data, .size = bytes.size, .records = records, .n_records = n, .cookie = cookie};
    int r = meta_log_propose(mlog, &p, &first);
    if (r == 0) {
        ck_assert_uint_eq(first, want);
        for (size_t i = 0; i < n; i++)
            ck_assert_int_eq(meta_apply(image, first + i, bytes.data + records[i].offset, records[i].size), 0);
    }
    buf_deinit(&bytes);
    free(value);
    return r;
}

static void run_until(size_t n)
{
    int64_t end = clock_mono_ns() + 10 * NS_PER_S;
    while (n_resolved < n && clock_mono_ns() < end)
        ck_assert_int_ge(loop_turn(loop, NS_PER_MS * 50), 0);
    ck_assert_uint_eq(n_resolved, n);
}

START_TEST(resolves_each_once_in_order)
{
    open_log(1 << 20);
    for (uint64_t i = 1; i <= 500; i++)
        ck_assert_int_eq(propose(i, i % 4, 10), 0); /* every fourth has no records */
    run_until(500);
    for (uint64_t i = 0; i < 500; i++)
        ck_assert(resolved[i] == i + 1 && resolved_ok[i]);
    ck_assert_uint_eq(committed, meta_index(image));
    ck_assert_uint_lt(n_committed_calls, 250); /* one commit carries many requests */
    uint64_t digest = meta_digest(image);
    close_log();
    open_log(1 << 20);
    ck_assert_uint_eq(meta_digest(image), digest);
    ck_assert_int_eq(propose(1, 1, 10), 0); /* the next index follows */
    run_until(1);
}
END_TEST

START_TEST(nothing_is_told_before_it_is_durable)
{
    open_log(1 << 20);
    ck_assert_int_eq(propose(1, 1, 10), 0);
    ck_assert_uint_eq(n_resolved, 0); /* only the loop tells */
    run_until(1);
    uint64_t index = committed;
    close_log();
    open_log(1 << 20);
    ck_assert_uint_eq(meta_index(image), index);
}
END_TEST

START_TEST(close_commits_what_is_queued)
{
    open_log(1 << 20);
    for (uint64_t i = 1; i <= 50; i++)
        ck_assert_int_eq(propose(i, 1, 10), 0);
    uint64_t digest = meta_digest(image);
    close_log();
    open_log(1 << 20);
    ck_assert_uint_eq(meta_digest(image), digest);
}
END_TEST

START_TEST(map_grows_unnoticed)
{
    open_log(1 << 20);
    for (uint64_t i = 1; i <= 150; i++)
        ck_assert_int_eq(propose(i, 1, 20000), 0);
    run_until(150);
    for (size_t i = 0; i < 150; i++)
        ck_assert(resolved_ok[i]);
    ck_assert_uint_eq(n_refused, 0);
}
END_TEST

START_TEST(full_map_and_disk_refuse_and_recover)
{
    char path[96], junk[4096] = {1};
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("leat-test", dir, "tmpfs", 0, "size=6m") < 0) {
        printf("# skipped: no right to mount a small tmpfs\n");
        open_log(1 << 20);
        return;
    }
    open_log(1 << 20);
    snprintf(path, sizeof(path), "%s/junk", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    while (write(fd, junk, sizeof(junk)) > 0)
        ;
    close(fd);
    uint64_t n = 0;
    while (n_refused == 0 && n < 500) {
        int r = propose(++n, 1, 20000);
        if (r == -ENOBUFS) { /* refusing until the loop has heard */
            n--;
            run_until(n);
            break;
        }
        ck_assert_int_eq(r, 0);
        if (n % 5 == 0)
            run_until(n);
    }
    run_until(n);
    ck_assert_uint_eq(n_refused, 1);
    size_t good = 0;
    while (good < n && resolved_ok[good])
        good++;
    for (size_t i = good; i < n; i++)
        ck_assert(!resolved_ok[i]); /* nothing decided on top of what was refused is kept */
    ck_assert_uint_gt(good, 5);
    ck_assert_uint_eq(meta_index(image), committed); /* our image went back */
    uint64_t digest = meta_digest(image);
    ck_assert_int_eq(propose(n + 1, 1, 5), 0); /* small changes go on */
    run_until(n + 1);
    ck_assert(resolved_ok[n]);
    unlink(path);
    ck_assert_int_eq(propose(n + 2, 1, 20000), 0); /* with room, the map grows */
    run_until(n + 2);
    ck_assert(resolved_ok[n + 1]);
    ck_assert_uint_ne(meta_digest(image), digest);
    digest = meta_digest(image);
    close_log();
    open_log(1 << 20);
    ck_assert_uint_eq(meta_digest(image), digest);
    close_log();
    umount2(dir, MNT_DETACH);
}
END_TEST

START_TEST(refused_answers_carry_the_error)
{
    Cluster c;
    cluster_open(&c);
    cluster_start(&c, 1);
    KCreateTopicsRequestTopics t[2] = {{.name = k_str("ok"), .num_partitions = 1, .replication_factor = 1},
                                       {.name = k_str(".."), .num_partitions = 1, .replication_factor = 1}};
    KCreateTopicsRequest q = {.timeout_ms = 1};
    KCreateTopicsResponse a;
    q.topics.items = t;
    q.topics.n = 2;
    for (int16_t v = 2; v <= 7; v++) {
        cluster_decide(&c, K_API_CREATE_TOPICS, v, &q, &a);
        ck_assert_int_eq(ctl_refuse(K_API_CREATE_TOPICS, v, K_KAFKA_STORAGE_ERROR, "full", &c.out.response), 0);
        ck_assert_int_eq(k_decode(&k_create_topics_response, v, c.out.response.data, c.out.response.size, &c.arena, &a), 0);
        ck_assert_int_eq(a.topics.items[0].error_code, K_KAFKA_STORAGE_ERROR);
        ck_assert_int_eq(a.topics.items[1].error_code, K_INVALID_TOPIC_EXCEPTION); /* its own error stays */
        ck_assert(k_str_equal(a.topics.items[0].error_message, "full"));
        ck_assert_int_eq(a.topics.items[0].num_partitions, -1);
    }
    KAllocateProducerIdsRequest p = {.broker_id = 1, .broker_epoch = meta_broker(image_of(&c), 1)->epoch};
    KAllocateProducerIdsResponse b;
    cluster_decide(&c, K_API_ALLOCATE_PRODUCER_IDS, 0, &p, &b);
    ck_assert_int_eq(ctl_refuse(K_API_ALLOCATE_PRODUCER_IDS, 0, K_REQUEST_TIMED_OUT, "x", &c.out.response), 0);
    ck_assert_int_eq(k_decode(&k_allocate_producer_ids_response, 0, c.out.response.data, c.out.response.size, &c.arena, &b), 0);
    ck_assert_int_eq(b.error_code, K_REQUEST_TIMED_OUT);
    cluster_close(&c);
    open_log(1 << 20);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("log");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 30);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, resolves_each_once_in_order);
    tcase_add_test(t, nothing_is_told_before_it_is_durable);
    tcase_add_test(t, close_commits_what_is_queued);
    tcase_add_test(t, map_grows_unnoticed);
    tcase_add_test(t, full_map_and_disk_refuse_and_recover);
    tcase_add_test(t, refused_answers_carry_the_error);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
