/*
 * The LMDB store: what was appended is there after any end of the process, readers follow through trims and generations, a
 * full map and a full disk refuse clearly. An environment is opened once per process, so readers run in a forked child.
 */

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "meta/image_private.h"
#include "meta/store.h"
#include "tests/meta/records.h"

static char dir[] = "/tmp/leat-meta-XXXXXX", meta_dir[64];
static MetaStore *store;
static MetaImage *image;
static MetaHardState hard;
static uint64_t serial;
static Rng rng;

static void open_store(size_t map_size)
{
    uint64_t last, term;
    char why[256];
    ck_assert_int_eq(meta_image_new(&image), 0);
    int r = meta_store_open(meta_dir, map_size, &store, why, sizeof(why));
    ck_assert_msg(r == 0, "%d %s", r, why);
    ck_assert_int_eq(meta_store_load(store, image, &hard, &last, &term), 0);
    ck_assert_uint_eq(last, meta_index(image));
}

static void close_store(void)
{
    store = meta_store_close(store);
    image = meta_image_free(image);
}

static void setup(void)
{
    memcpy(strrchr(dir, '-'), "-XXXXXX", 8);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(meta_dir, sizeof(meta_dir), "%s/meta", dir);
    rng_init(&rng, 5);
    serial = 0;
}

static void teardown(void)
{
    close_store();
    ck_assert_int_eq(fs_remove_tree(dir), 0);
}

/* Applies and appends `n` records of the random walk as one batch. */
static int append(size_t n)
{
    Buf b[64];
    MetaEntry e[64];
    ck_assert_uint_le(n, ARRAY_SIZE(b));
    for (size_t i = 0; i < n; i++) {
        b[i] = meta_index(image) ? rec_random(image, &rng, &serial) : rec_cluster("c");
        e[i] = (MetaEntry){meta_index(image) + 1, 3, b[i].data, b[i].size};
        ck_assert_int_eq(meta_apply(image, e[i].index, b[i].data, b[i].size), 0);
    }
    hard = (MetaHardState){.term = 3, .vote = 1, .commit = meta_index(image)};
    int r = meta_store_append(store, &hard, e, n, image);
    for (size_t i = 0; i < n; i++)
        buf_deinit(&b[i]);
    return r;
}

START_TEST(loads_what_was_appended)
{
    open_store(4 << 20);
    ck_assert_int_eq(hard.vote, -1);
    for (int i = 0; i < 40; i++) {
        ck_assert_int_eq(append(1 + (size_t)i % 40), 0);
        uint64_t digest = meta_digest(image), index = meta_index(image);
        if (i % 8 == 7) {
            close_store();
            open_store(4 << 20);
            ck_assert_uint_eq(meta_index(image), index);
            ck_assert_uint_eq(meta_digest(image), digest);
            ck_assert_uint_eq(hard.term, 3);
            ck_assert_int_eq(hard.vote, 1);
        }
    }
    ck_assert_int_eq(meta_store_trim(store, UINT64_MAX), 0); /* all of it is in the tables */
    uint64_t digest = meta_digest(image);
    close_store();
    open_store(4 << 20);
    ck_assert_uint_eq(meta_digest(image), digest);
    ck_assert_int_eq(append(3), 0);
}
END_TEST

/* ---- a reader in a child: one byte asks for a refresh, answered by {result, index, digest} ---- */

typedef struct Answer {
    int64_t result;
    uint64_t index, digest;
} Answer;
static int ask_fd, answer_fd;
static pid_t reader_pid;

static void reader_main(int in, int out)
{
    MetaReader *reader;
    MetaImage *own;
    char c;
    if (meta_image_new(&own) < 0 || meta_reader_open(meta_dir, &reader) < 0)
        _exit(1);
    while (read(in, &c, 1) == 1) {
        Answer a = {.result = meta_reader_refresh(reader, own)};
        a.index = meta_index(own);
        a.digest = meta_digest(own);
        if (write(out, &a, sizeof(a)) != sizeof(a))
            break;
    }
    meta_reader_close(reader);
    meta_image_free(own);
    _exit(0);
}

static void start_reader(void)
{
    int in[2], out[2];
    ck_assert_int_eq(pipe(in), 0);
    ck_assert_int_eq(pipe(out), 0);
    reader_pid = fork();
    if (reader_pid == 0) {
        close(in[1]);
        close(out[0]);
        reader_main(in[0], out[1]);
    }
    close(in[0]);
    close(out[1]);
    ask_fd = in[1];
    answer_fd = out[0];
}

static void stop_reader(void)
{
    int status;
    close(ask_fd);
    close(answer_fd);
    ck_assert_int_eq(waitpid(reader_pid, &status, 0), reader_pid);
    ck_assert_int_eq(status, 0);
}

static Answer refresh(void)
{
    Answer a;
    ck_assert_int_eq(write(ask_fd, "r", 1), 1);
    ck_assert_int_eq(read(answer_fd, &a, sizeof(a)), sizeof(a));
    return a;
}

static void expect_same(void)
{
    Answer a = refresh();
    ck_assert_int_eq(a.result, 0);
    ck_assert_uint_eq(a.index, meta_index(image));
    ck_assert_uint_eq(a.digest, meta_digest(image));
}

START_TEST(reader_follows_log_trims_growth_and_generations)
{
    MetaReader *none;
    ck_assert_int_eq(meta_reader_open(meta_dir, &none), -ENOENT);
    /* fork before the environment is open in this process (LMDB) */
    open_store(2 << 20);
    ck_assert_int_eq(append(1), 0);
    close_store();
    start_reader();
    open_store(2 << 20);
    expect_same();
    for (int i = 0; i < 10; i++) {
        ck_assert_int_eq(append(20), 0);
        expect_same(); /* through the log */
    }
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(append(20), 0);
    ck_assert_int_eq(meta_store_trim(store, meta_index(image) - 5), 0);
    expect_same(); /* the log begins behind the reader: a reload */
    ck_assert_int_eq(append(2), 0);
    expect_same();
    /* the map grows under the reader: MAP_RESIZED */
    size_t size = 0;
    for (int i = 0; i < 400 && size < 3; i++) {
        int r = append(64);
        if (r == -ENOSPC) {
            size++;
            break;
        }
        ck_assert_int_eq(r, 0);
    }
    if (size > 0) { /* the append failed whole: reload our image and go on in the larger map */
        close_store();
        open_store(2 << 20);
        for (int i = 0; i < 40; i++)
            ck_assert_int_eq(append(64), 0);
    }
    expect_same();
    /* another generation with an older state */
    Buf json = BUF_NULL;
    char why[256];
    close_store();
    ck_assert_int_eq(meta_store_dump(meta_dir, &json), 0);
    open_store(2 << 20);
    ck_assert_int_eq(append(9), 0);
    expect_same();
    close_store();
    ck_assert_int_eq(meta_store_restore(meta_dir, (char *)json.data, json.size, why, sizeof(why)), 0);
    buf_deinit(&json);
    open_store(2 << 20);
    expect_same();
    ck_assert_int_eq(append(3), 0);
    expect_same();
    stop_reader();
    char old[96];
    snprintf(old, sizeof(old), "%s/00000001", meta_dir);
    close_store();
    open_store(2 << 20);
    ck_assert_int_eq(access(old, F_OK), -1); /* nobody reads the old generation any more */
}
END_TEST

START_TEST(dump_and_restore)
{
    Buf json = BUF_NULL, again = BUF_NULL;
    char why[256];
    open_store(2 << 20);
    for (int i = 0; i < 10; i++)
        append(30);
    uint64_t digest = meta_digest(image);
    close_store();
    ck_assert_int_eq(meta_store_dump(meta_dir, &json), 0);
    ck_assert_int_eq(fs_remove_tree(meta_dir), 0);
    ck_assert_int_eq(meta_store_restore(meta_dir, (char *)json.data, json.size, why, sizeof(why)), 0);
    ck_assert_int_eq(meta_store_dump(meta_dir, &again), 0);
    ck_assert_uint_eq(json.size, again.size);
    ck_assert_mem_eq(json.data, again.data, json.size);
    open_store(2 << 20);
    ck_assert_uint_eq(meta_digest(image), digest);
    close_store();
    /* one flipped digit of some record */
    char *data = strstr((char *)json.data, "\"data\":\"");
    data[14] = data[14] == 'A' ? 'B' : 'A';
    ck_assert_int_eq(meta_store_restore(meta_dir, (char *)json.data, json.size, why, sizeof(why)), -EBADMSG);
    ck_assert_int_eq(meta_store_restore(meta_dir, "{}", 2, why, sizeof(why)), -EBADMSG);
    ck_assert_int_eq(meta_store_restore(meta_dir, "{", 1, why, sizeof(why)), -EBADMSG);
    ck_assert(why[0]);
    open_store(2 << 20);
    ck_assert_uint_eq(meta_digest(image), digest); /* a refused restore changes nothing */
    buf_deinit(&json);
    buf_deinit(&again);
}
END_TEST

START_TEST(damage_is_found)
{
    char path[128], why[256];
    open_store(1 << 20);
    for (int i = 0; i < 10; i++)
        append(30);
    close_store();
    snprintf(path, sizeof(path), "%s/00000001/data.mdb", meta_dir);
    Buf file = BUF_NULL;
    ck_assert_int_eq(fs_read_file(path, 16 << 20, &file), 0);
    /* in a table: a partition record's type and version, with the topic id behind */
    uint8_t *hit = memmem(file.data + file.size / 2, file.size / 2, "\x9c\x07\x00", 3);
    hit = hit ? hit : memmem(file.data, file.size, "\x9c\x07\x00", 3);
    ck_assert_ptr_nonnull(hit);
    for (uint8_t *p = file.data; (p = memmem(p, file.size - (size_t)(p - file.data), "\x9c\x07\x00", 3)); p++)
        p[12] ^= 0x10;
    int fd = open(path, O_WRONLY);
    ck_assert_int_eq(fs_pwrite_all(fd, file.data, file.size, 0), 0);
    close(fd);
    buf_deinit(&file);
    uint64_t last, term;
    ck_assert_int_eq(meta_image_new(&image), 0);
    ck_assert_int_eq(meta_store_open(meta_dir, 1 << 20, &store, why, sizeof(why)), 0);
    ck_assert_int_eq(meta_store_load(store, image, &hard, &last, &term), -EBADMSG);
    store = meta_store_close(store);
    snprintf(path, sizeof(path), "%s/CURRENT", meta_dir);
    ck_assert_int_eq(fs_write_file_atomic(path, "junk", 4, 0600), 0);
    ck_assert_int_eq(meta_store_open(meta_dir, 1 << 20, &store, why, sizeof(why)), -EBADMSG);
    ck_assert(strstr(why, "damaged"));
}
END_TEST

/* ---- kill -9 during commits ---- */

#define BATCH 3

static void writer_main(int out)
{
    open_store(2 << 20);
    for (;;) {
        if (append(BATCH) < 0)
            _exit(1);
        uint64_t index = meta_index(image);
        if (write(out, &index, sizeof(index)) != sizeof(index))
            _exit(2);
        if (index % 60 == 0)
            meta_store_trim(store, index - 20);
    }
}

START_TEST(kill_9_loses_no_acknowledged_commit)
{
    uint64_t acked = 0, seen;
    for (int round = 0; round < 12; round++) {
        int fds[2];
        ck_assert_int_eq(pipe(fds), 0);
        pid_t pid = fork();
        if (pid == 0) {
            close(fds[0]);
            rng_init(&rng, (uint64_t)round);
            serial = (uint64_t)round << 32;
            writer_main(fds[1]);
        }
        close(fds[1]);
        for (uint64_t n = 3 + rng_below(&rng, 20); n > 0 && read(fds[0], &seen, sizeof(seen)) == sizeof(seen); n--)
            acked = seen;
        usleep((useconds_t)rng_below(&rng, 1500));
        kill(pid, SIGKILL);
        while (read(fds[0], &seen, sizeof(seen)) == sizeof(seen))
            acked = seen;
        close(fds[0]);
        ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
        open_store(2 << 20);
        ck_assert_uint_ge(meta_index(image), acked);
        ck_assert_uint_eq(meta_index(image) % BATCH, 0); /* batches are whole or absent (C16) */
        ck_assert_uint_eq(hard.commit, meta_index(image));
        close_store();
    }
    ck_assert_uint_gt(acked, 60);
}
END_TEST

/* ---- limits ---- */

static int append_value(int topic_config, size_t size)
{
    char name[32], *value = malloc(size + 1);
    memset(value, 'x', size);
    value[size] = 0;
    snprintf(name, sizeof(name), "key%d", topic_config);
    Buf b = rec_config(4, "", name, value);
    MetaEntry e = {meta_index(image) + 1, 1, b.data, b.size};
    ck_assert_int_eq(meta_apply(image, e.index, b.data, b.size), 0);
    hard.commit = e.index;
    int r = meta_store_append(store, &hard, &e, 1, image);
    buf_deinit(&b);
    free(value);
    return r;
}

START_TEST(full_map_refuses_then_grows)
{
    int r = 0, n = 0;
    open_store(1 << 20);
    while (r == 0 && n < 200)
        r = append_value(n++, 16000);
    ck_assert_int_eq(r, -ENOSPC);
    close_store(); /* the refused batch left nothing */
    open_store(1 << 20);
    ck_assert_uint_eq(meta_index(image), (uint64_t)n - 1);
    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(append_value(1000 + i, 16000), 0); /* it had grown */
    uint32_t permille = 0;
    ck_assert_int_eq(meta_store_housekeep(store, &permille), 0);
    ck_assert_uint_gt(permille, 100);
    ck_assert_uint_lt(permille, 900); /* grown before it was full */
}
END_TEST

static void fill_disk(const char *path, size_t leave)
{
    char junk[4096] = {1};
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    while (write(fd, junk, sizeof(junk)) > 0)
        ;
    off_t size = lseek(fd, 0, SEEK_END);
    ck_assert_int_eq(ftruncate(fd, size - (off_t)leave), 0);
    close(fd);
}

START_TEST(full_disk_stops_only_growth)
{
    char junk[96];
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("leat-test", dir, "tmpfs", 0, "size=8m") < 0) {
        printf("# skipped: no right to mount a small tmpfs\n");
        return;
    }
    open_store(2 << 20);
    snprintf(junk, sizeof(junk), "%s/junk", dir);
    fill_disk(junk, 0);
    int r = 0, n = 0;
    while (r == 0 && n < 400)
        r = append_value(n++, 16000);
    ck_assert_int_eq(r, -ENOSPC); /* the map, not a failed write: it went on inside its own space */
    ck_assert_int_gt(n, 20);
    close_store();
    open_store(2 << 20);
    ck_assert_uint_eq(meta_index(image), (uint64_t)n - 1);
    ck_assert_int_eq(append_value(1, 16), 0); /* small changes go on */
    while ((r = append_value(n, 16000)) == 0)
        n++;
    ck_assert_int_eq(r, -ENOSPC); /* still no room to grow */
    close_store();
    open_store(2 << 20);
    unlink(junk);
    r = append_value(n, 16000);
    if (r == -ENOSPC) {
        close_store();
        open_store(2 << 20);
        r = append_value(n, 16000);
    }
    ck_assert_int_eq(r, 0);
    close_store();
    umount2(dir, MNT_DETACH);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("store");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 30);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, loads_what_was_appended);
    tcase_add_test(t, reader_follows_log_trims_growth_and_generations);
    tcase_add_test(t, dump_and_restore);
    tcase_add_test(t, damage_is_found);
    tcase_add_test(t, kill_9_loses_no_acknowledged_commit);
    tcase_add_test(t, full_map_refuses_then_grows);
    tcase_add_test(t, full_disk_stops_only_growth);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
