#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm/counters.h"

static char dir[] = "/tmp/leat-counters-XXXXXX";
static char path[64];
static const char build[24] = "0123456789abcdef01234567";

static void setup(void)
{
    ck_assert_ptr_nonnull(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/counters", dir);
}

static void teardown(void)
{
    unlink(path);
    rmdir(dir);
}

START_TEST(rows_are_seen_by_others)
{
    Counters *super, *broker, *reader;

    ck_assert_int_eq(counters_create(path, build, &super), 0);
    ck_assert_int_eq(counters_open_fd(dup(counters_fd(super)), ROW_BROKER, &broker), 0);
    ck_assert_int_eq(counters_open(path, ROW_COUNT, &reader), 0);
    ck_assert_int_eq(memcmp(counters_build_id(reader), build, sizeof(build)), 0);
    counter_add(counters_row(broker, ROW_BROKER), COUNTER_BATCHES_IN, 5);
    counter_add(counters_row(broker, ROW_BROKER), COUNTER_BATCHES_IN, 2);
    ck_assert_uint_eq(counter_get(counters_row(reader, ROW_BROKER), COUNTER_BATCHES_IN), 7);
    ck_assert_uint_eq(counter_get(counters_row(super, ROW_BROKER), COUNTER_BATCHES_IN), 7);
    ck_assert_int_eq(atomic_load(&counters_row(reader, ROW_BROKER)->pid), getpid());
    uint32_t generation = atomic_load(&counters_row(reader, ROW_BROKER)->generation);
    ck_assert_uint_eq(generation % 2, 0);
    counters_close(broker);

    /* the next broker starts at zero, and a reader can tell */
    ck_assert_int_eq(counters_open(path, ROW_BROKER, &broker), 0);
    ck_assert_uint_eq(counter_get(counters_row(reader, ROW_BROKER), COUNTER_BATCHES_IN), 0);
    ck_assert_uint_eq(atomic_load(&counters_row(reader, ROW_BROKER)->generation), generation + 2);
    counters_close(broker);
    counters_close(reader);
    counters_close(super);
}
END_TEST

/* A stray store into another's row ends the process that did it. */
START_TEST(other_rows_cannot_be_written)
{
    Counters *super;
    int status;

    ck_assert_int_eq(counters_create(path, build, &super), 0);
    for (int role = ROW_SUPERVISOR; role < ROW_COUNT; role++) {
        pid_t pid = fork();
        if (pid == 0) {
            signal(SIGSEGV, SIG_DFL);
            counter_set(counters_row(super, (CountersRole)role), COUNTER_TOPICS, 1);
            _exit(0);
        }
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert_int_eq(WIFSIGNALED(status), role != ROW_SUPERVISOR);
    }
    counters_close(super);
}
END_TEST

START_TEST(another_layout_is_stale)
{
    Counters *super, *reader = NULL;
    uint32_t wrong;

    ck_assert_int_eq(counters_create(path, build, &super), 0);
    ck_assert_int_eq(pread(counters_fd(super), &wrong, 4, 8), 4);
    for (off_t at = 0; at < 24; at += 4) {
        ck_assert_int_eq(pread(counters_fd(super), &wrong, 4, at), 4);
        uint32_t other = wrong + 1;
        ck_assert_int_eq(pwrite(counters_fd(super), &other, 4, at), 4);
        ck_assert_int_eq(counters_open(path, ROW_COUNT, &reader), -ESTALE);
        ck_assert_int_eq(pwrite(counters_fd(super), &wrong, 4, at), 4);
    }
    ck_assert_int_eq(ftruncate(counters_fd(super), 4096), 0);
    ck_assert_int_eq(counters_open(path, ROW_COUNT, &reader), -ESTALE);
    ck_assert_ptr_null(reader);
    counters_close(super);
}
END_TEST

/* Who maps the file of an earlier supervisor keeps valid memory. */
START_TEST(created_again_beside_a_reader)
{
    Counters *first, *second, *reader;
    struct stat st;

    ck_assert_int_eq(counters_create(path, build, &first), 0);
    ck_assert_int_eq(counters_open(path, ROW_COUNT, &reader), 0);
    ck_assert_int_eq(counters_create(path, build, &second), 0);
    counter_set(counters_row(second, ROW_SUPERVISOR), COUNTER_RESTARTS, 4);
    ck_assert_uint_eq(counter_get(counters_row(reader, ROW_SUPERVISOR), COUNTER_RESTARTS), 0);
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0640);
    ck_assert_int_eq((int)(st.st_blocks * 512 >= st.st_size),
                     1); /* a store never finds the disk full */
    counters_close(first);
    counters_close(second);
    counters_close(reader);
}
END_TEST

START_TEST(names)
{
    for (CounterId i = 0; i < COUNTER_COUNT; i++) {
        ck_assert_ptr_nonnull(counter_name(i));
        for (CounterId k = 0; k < i; k++)
            ck_assert_str_ne(counter_name(i), counter_name(k));
    }
    ck_assert_str_eq(counter_name(COUNTER_META_MAP_USED), "meta_map_used");
    ck_assert_ptr_null(counter_name(COUNTER_COUNT));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("counters");
    TCase *tc = tcase_create("counters");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, rows_are_seen_by_others);
    tcase_add_test(tc, other_rows_cannot_be_written);
    tcase_add_test(tc, another_layout_is_stale);
    tcase_add_test(tc, created_again_beside_a_reader);
    tcase_add_test(tc, names);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
