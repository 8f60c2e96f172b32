/* JSON lines: always one valid object per event, and files that two processes rotate together. */

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/log.h"

static char dir[64], path[128];

static void setup(void)
{
    strcpy(dir, "/tmp/leat-log-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/log", dir);
    jlog_init("tester", "main", LOG_SINK_JSON);
    ck_assert_int_eq(jlog_open_file(path), 0);
}

static void teardown(void)
{
    ck_assert_int_eq(fs_remove_tree(dir), 0);
}

static json_t *read_line(Buf *b)
{
    json_error_t e;
    char *end;
    json_t *j;

    ck_assert_int_eq(fs_read_file(path, 1 << 20, b), 0);
    end = memchr(b->data, '\n', b->size);
    ck_assert_ptr_nonnull(end);
    j = json_loadb((char *)b->data, (size_t)(end - (char *)b->data), 0, &e);
    ck_assert_msg(j != NULL, "%s in %.*s", e.text, (int)b->size, b->data);
    return j;
}

START_TEST(fields_and_errors)
{
    LogField fields[] = {
        {"LEAT_TOPIC", "or\"ders\n"},
        {"LEAT_GROUP", NULL        }
    };
    Buf b = BUF_NULL;
    json_t *j;

    errno = EAGAIN;
    jlog_write(LOG_ERR, "0123456789abcdef0123456789abcdef", ENOSPC, fields, 2, "cannot %s",
               "write");
    ck_assert_int_eq(errno, EAGAIN);
    jlog(LOG_DEBUG, "below the level");
    j = read_line(&b);
    ck_assert_str_eq(json_string_value(json_object_get(j, "MESSAGE")),
                     "cannot write: No space left on device");
    ck_assert_str_eq(json_string_value(json_object_get(j, "ERRNO")), "28");
    ck_assert_str_eq(json_string_value(json_object_get(j, "PRIORITY")), "3");
    ck_assert_str_eq(json_string_value(json_object_get(j, "LEAT_ROLE")), "tester");
    ck_assert_str_eq(json_string_value(json_object_get(j, "LEAT_TOPIC")), "or\"ders\n");
    ck_assert_ptr_null(json_object_get(j, "LEAT_GROUP"));
    ck_assert_ptr_eq(strstr((char *)b.data, "below"), NULL);
    json_decref(j);
    buf_deinit(&b);
}
END_TEST

START_TEST(any_bytes_stay_json)
{
    char text[4000];
    Buf b = BUF_NULL;

    for (size_t i = 0; i < sizeof(text) - 1; i++)
        text[i] = (char)(i % 255 + 1);
    text[sizeof(text) - 1] = '\0';
    jlog(LOG_ERR, "%s", text);
    json_decref(read_line(&b));
    ck_assert_int_eq(truncate(path, 0), 0);
    for (size_t i = 0; i + 3 < sizeof(text); i += 3)
        memcpy(text + i, "\xe2\x82\xac", 4);
    jlog(LOG_ERR, "%s", text);
    json_decref(read_line(&b));
    buf_deinit(&b);
}
END_TEST

START_TEST(processes_share_a_rotating_file)
{
    static const char *const names[] = {"", ".1", ".2", ".3"};
    char name[160], text[1800];
    size_t lines = 0;
    Buf b = BUF_NULL;

    /* three processes, some 23 MiB: one rotation each way, no line lost or torn */
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (int p = 0; p < 3; p++) {
        pid_t pid = fork();

        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
            for (int i = 0; i < 4000; i++)
                jlog(LOG_ERR, "%s", text);
            _exit(0);
        }
    }
    for (int p = 0; p < 3; p++)
        ck_assert_int_gt(wait(NULL), 0);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        snprintf(name, sizeof(name), "%s%s", path, names[i]);
        if (fs_read_file(name, 64 << 20, &b) == -ENOENT)
            continue;
        ck_assert_uint_lt(b.size, (16u << 20) + (1u << 20));
        for (size_t k = 0; k < b.size; k++)
            lines += b.data[k] == '\n';
        ck_assert_int_eq(b.data[b.size - 1], '\n');
    }
    ck_assert_uint_eq(lines, 12000);
    snprintf(name, sizeof(name), "%s.1", path);
    ck_assert_int_eq(access(name, F_OK), 0);
    buf_deinit(&b);
}
END_TEST

START_TEST(limit_counts_what_it_suppresses)
{
    LogLimit limit = {0};

    ck_assert(jlog_limit_pass(&limit));
    for (int i = 0; i < 5; i++)
        ck_assert(!jlog_limit_pass(&limit));
    ck_assert_uint_eq(limit.suppressed, 5);
    limit.next_ns = 0;
    ck_assert(jlog_limit_pass(&limit));
    ck_assert_uint_eq(limit.suppressed, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("log");
    TCase *t = tcase_create("log");
    SRunner *r = srunner_create(s);
    int failed;

    suite_add_tcase(s, t);
    tcase_set_timeout(t, 20);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, fields_and_errors);
    tcase_add_test(t, any_bytes_stay_json);
    tcase_add_test(t, processes_share_a_rotating_file);
    tcase_add_test(t, limit_counts_what_it_suppresses);
    srunner_run_all(r, CK_ENV);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
