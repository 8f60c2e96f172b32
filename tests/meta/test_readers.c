/*
 * Readers of other processes, as many as there may be, killed at any moment, while the map grows beneath them: the writer is never
 * held up, the living see every commit, and the places of the dead are used again. All processes here are forked before the
 * environment is open, as LMDB demands.
 */

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fs.h"
#include "meta/env.h"
#include "tests/meta/records.h"

#define SMALL_MAP (1u << 20)
#define READERS   3

static char dir[] = "/tmp/leat-readers-XXXXXX", meta_dir[64];
static MetaStore *store;
static MetaImage *image;

static void open_store(void)
{
    MetaHardState hard;
    uint64_t last, term;
    char why[256];
    ck_assert_int_eq(meta_image_new(&image), 0);
    ck_assert_int_eq(meta_store_open(meta_dir, SMALL_MAP, &store, why, sizeof(why)), 0);
    ck_assert_int_eq(meta_store_load(store, image, &hard, &last, &term), 0);
}

static void close_store(void)
{
    store = meta_store_close(store);
    image = meta_image_free(image);
}

static int append_all(Buf *b, size_t n)
{
    MetaEntry e[100];
    size_t before;
    int r;
    ck_assert_uint_le(n, ARRAY_SIZE(e));
    for (size_t i = 0; i < n; i++) {
        e[i] = (MetaEntry){meta_index(image) + 1, 1, b[i].data, b[i].size};
        ck_assert_int_eq(meta_apply(image, e[i].index, b[i].data, b[i].size), 0);
    }
    MetaHardState hard = {.term = 1, .vote = 1, .commit = meta_index(image)};
    do {
        before = meta_store_map_size(store);
        r = meta_store_append(store, &hard, e, n, image);
    } while (r == -ENOSPC && meta_store_map_size(store) > before);
    for (size_t i = 0; i < n; i++)
        buf_deinit(&b[i]);
    return r;
}

static int append(Buf b)
{
    return append_all(&b, 1);
}

/* As the controller does: readers may pin what a trim would reuse, then the map has grown and it is tried again. */
static int trim(uint64_t before_index)
{
    size_t before = meta_store_map_size(store);
    int r = meta_store_trim(store, before_index);
    if (r == -ENOSPC && meta_store_map_size(store) > before)
        r = meta_store_trim(store, before_index);
    return r;
}

static void setup(void)
{
    memcpy(strrchr(dir, '-'), "-XXXXXX", 8);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(meta_dir, sizeof(meta_dir), "%s/meta", dir);
    open_store();
    ck_assert_int_eq(append(rec_cluster("c")), 0);
    close_store();
}

static void teardown(void)
{
    close_store();
    ck_assert_int_eq(fs_remove_tree(dir), 0);
}

/* A value of a config: 16 KB more for log and table. */
static Buf large(int i)
{
    static char value[16000];
    char name[32];
    memset(value, 'a' + i % 26, sizeof(value) - 1);
    snprintf(name, sizeof(name), "key%d", i % 300);
    return rec_config(4, "", name, value);
}

/* ---- readers that are killed ---- */

/* Refreshes as fast as it goes; at `until` it says so and ends. */
static void read_for_ever(uint64_t until)
{
    MetaReader *reader;
    MetaImage *mine;
    if (meta_image_new(&mine) < 0 || meta_reader_open(meta_dir, &reader) < 0)
        _exit(1);
    for (uint64_t last = 0;; last = meta_index(mine)) {
        if (meta_reader_refresh(reader, mine) < 0)
            _exit(2);
        if (meta_index(mine) < last)
            _exit(3); /* back in time */
        if (meta_index(mine) >= until)
            _exit(0);
    }
}

static pid_t fork_reader(uint64_t until)
{
    pid_t pid = fork();
    if (pid == 0)
        read_for_ever(until);
    return pid;
}

/* Keeps READERS readers alive, kills one again and again and tells of it, until `stop` is closed; then all must reach the end. */
static void keep_killing(int stop, int killed, uint64_t until)
{
    pid_t pids[READERS];
    Rng rng;
    char end;
    int status;
    rng_init(&rng, 9);
    for (int i = 0; i < READERS; i++)
        pids[i] = fork_reader(until);
    while (read(stop, &end, 1) < 0 && errno == EAGAIN) {
        usleep((useconds_t)rng_below(&rng, 3000));
        int i = (int)rng_below(&rng, READERS);
        kill(pids[i], SIGKILL);
        if (waitpid(pids[i], &status, 0) != pids[i] || (WIFEXITED(status) && WEXITSTATUS(status) != 0))
            _exit(10 + WEXITSTATUS(status)); /* it had found something before the kill */
        pids[i] = fork_reader(until);
        if (write(killed, "k", 1) < 0 && errno != EAGAIN)
            _exit(4);
    }
    for (int i = 0; i < READERS; i++)
        if (waitpid(pids[i], &status, 0) != pids[i] || status != 0)
            _exit(20 + WEXITSTATUS(status));
    _exit(0);
}

START_TEST(readers_die_while_the_map_grows)
{
    enum { APPENDS = 400, KILLS = 50 };
    int stop[2], killed[2], status;
    uint32_t permille;
    char c;
    ck_assert_int_eq(pipe2(stop, O_NONBLOCK | O_CLOEXEC), 0);
    ck_assert_int_eq(pipe2(killed, O_CLOEXEC), 0);
    pid_t keeper = fork();
    if (keeper == 0) {
        close(stop[1]);
        close(killed[0]);
        ck_assert_int_eq(fcntl(killed[1], F_SETFL, O_NONBLOCK), 0);
        keep_killing(stop[0], killed[1], APPENDS + 1);
    }
    close(stop[0]);
    close(killed[1]);
    open_store();
    for (int i = 0; i < APPENDS; i++) {
        ck_assert_int_eq(append(large(i)), 0);
        if (i % (APPENDS / KILLS) == 0) /* a kill in each stretch, however the two are scheduled */
            ck_assert_int_eq(read(killed[0], &c, 1), 1);
        if (i % 50 == 49) {
            ck_assert_int_eq(trim(meta_index(image) - 20), 0);
            ck_assert_int_eq(meta_store_housekeep(store, &permille), 0);
            ck_assert_uint_lt(permille, 900);
        }
    }
    close(stop[1]);
    ck_assert_int_eq(waitpid(keeper, &status, 0), keeper);
    ck_assert_msg(status == 0, "readers ended with %d", WEXITSTATUS(status));
    close(killed[0]);
    ck_assert_uint_ge(meta_store_map_size(store), 4 * SMALL_MAP);
    ck_assert_uint_lt(meta_store_map_size(store), 64u << 20); /* the dead keep no old pages */
}
END_TEST

/* ---- a full table of readers ---- */

/* Takes a place and dies with it. */
static void die_reading(void)
{
    MDB_env *env;
    MDB_txn *txn;
    char path[PATH_MAX];
    meta_generation_path(meta_dir, 1, path);
    if (mdb_env_create(&env) || mdb_env_open(env, path, MDB_RDONLY | MDB_NOTLS, 0600))
        _exit(1);
    int r = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn);
    kill(getpid(), r == MDB_READERS_FULL ? SIGUSR1 : r ? SIGABRT : SIGKILL);
}

/* Without anybody in it the table would begin anew with the next who opens. */
static pid_t fork_holder(void)
{
    int fds[2];
    char c;
    ck_assert_int_eq(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        MetaReader *reader;
        if (meta_reader_open(meta_dir, &reader) < 0 || write(fds[1], "r", 1) != 1)
            _exit(1);
        pause();
    }
    ck_assert_int_eq(read(fds[0], &c, 1), 1);
    close(fds[0]);
    close(fds[1]);
    return pid;
}

START_TEST(places_of_dead_readers_are_used_again)
{
    int status = 0, n = 0;
    MetaReader *reader;
    MetaImage *mine;
    pid_t holder = fork_holder();
    ck_assert_int_eq(meta_image_new(&mine), 0);
    for (; n < 2000; n++) {
        pid_t pid = fork();
        if (pid == 0)
            die_reading();
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert(WIFSIGNALED(status) && WTERMSIG(status) != SIGABRT);
        if (WTERMSIG(status) == SIGUSR1)
            break;
    }
    ck_assert_int_gt(n, 100);
    ck_assert_int_lt(n, 2000);
    ck_assert_int_eq(meta_reader_open(meta_dir, &reader), 0);
    ck_assert_int_eq(meta_reader_refresh(reader, mine), 0);
    ck_assert_uint_eq(meta_index(mine), 1);
    meta_reader_close(reader);
    meta_image_free(mine);
    kill(holder, SIGKILL);
    ck_assert_int_eq(waitpid(holder, &status, 0), holder);
}
END_TEST

/* ---- more than the first map holds ---- */

START_TEST(a_large_dump_is_restored)
{
    enum { VALUES = 2300 }; /* of 32 KB: 72 MiB */
    Buf json = BUF_NULL;
    Buf all[100];
    char why[256], name[32], *value = malloc(32700);
    memset(value, 'v', 32699);
    value[32699] = 0;
    open_store();
    for (int i = 0; i < VALUES; i++) {
        snprintf(name, sizeof(name), "key%d", i);
        all[i % 100] = rec_config(4, "", name, value);
        if (i % 100 < 99)
            continue;
        ck_assert_int_eq(append_all(all, 100), 0);
        ck_assert_int_eq(meta_store_trim(store, meta_index(image)), 0);
    }
    uint64_t digest = meta_digest(image);
    close_store();
    ck_assert_int_eq(meta_store_dump(meta_dir, &json), 0);
    int r = meta_store_restore(meta_dir, (char *)json.data, json.size, why, sizeof(why));
    ck_assert_msg(r == 0, "%s", why);
    buf_deinit(&json);
    open_store();
    ck_assert_uint_eq(meta_digest(image), digest);
    ck_assert_int_eq(append(large(1)), 0);
    free(value);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("readers");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, readers_die_while_the_map_grows);
    tcase_add_test(t, places_of_dead_readers_are_used_again);
    tcase_add_test(t, a_large_dump_is_restored);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
