/* Closing many logs at once: every one ends as after plog_close(), whatever state its file was in, and the caller hears of it. */

#include "storage_test.h"

enum { LOGS = 200 };

typedef struct Heard {
    size_t calls, done;
} Heard;

static void hear(void *userdata, size_t done, size_t total)
{
    Heard *h = userdata;

    h->calls++;
    ck_assert_uint_le(done, total);
    ck_assert_uint_eq(total, LOGS);
    h->done = done;
}

static void append_one(Fixture *f, Plog *log, int64_t producer_id)
{
    Spec spec = {.count = 3, .timestamp = 5, .value_size = 300, .producer_id = producer_id};
    int64_t offset;

    ck_assert_int_eq(append_to(log, f->memory, &spec, &offset), 0);
}

START_TEST(closed_together)
{
    Fixture f = fixture_new();
    Plog *logs[LOGS];
    int64_t sizes[LOGS];
    char name[64];
    Heard heard = {0};

    fixture_open_dir(&f);
    for (int i = 0; i < LOGS; i++) {
        logs[i] = fixture_open_log(&f, "many", i);
        if (i % 10 != 0) /* every tenth is empty */
            append_one(&f, logs[i], i % 2 ? 77 : 0);
        if (i % 3 == 0 && plog_active(logs[i]))
            segment_close(plog_active(logs[i])); /* as for want of descriptors */
        sizes[i] = plog_size(logs[i]);
    }
    log_dir_close_logs(f.dir, logs, LOGS, hear, &heard);
    ck_assert_uint_ge(heard.calls, 1);
    f.dir = log_dir_close(f.dir, true);
    ck_assert_int_ge(file_size(&f, CLEAN_SHUTDOWN_FILE), 0);
    for (int i = 0; i < LOGS; i++) {
        (void)snprintf(name, sizeof(name), "many-%d/00000000000000000000.log", i);
        ck_assert_int_eq(file_size(&f, name), i % 10 != 0 ? sizes[i] : -ENOENT); /* D8: nothing behind the last batch */
    }
    fixture_open_dir(&f);
    ck_assert_int_eq(log_dir_state(f.dir), LOG_DIR_CLEAN);
    for (int i = 0; i < LOGS; i++) {
        PlogProducer producer;
        logs[i] = fixture_open_log(&f, "many", i);
        ck_assert_int_eq(plog_end(logs[i]), i % 10 != 0 ? 3 : 0);
        ck_assert_int_eq(plog_durable_end(logs[i]), plog_end(logs[i]));
        ck_assert_int_eq(plog_load_active(logs[i]), 0);
        ck_assert_uint_eq(plog_producers(logs[i], &producer, 1), i % 10 != 0 && i % 2);
        plog_close(logs[i]);
    }
    fixture_free(&f);
}
END_TEST

START_TEST(nothing_to_close)
{
    Fixture f = fixture_new();

    fixture_open_dir(&f);
    log_dir_close_logs(f.dir, NULL, 0, hear, NULL);
    fixture_free(&f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("close");
    TCase *t = tcase_create("all");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, closed_together);
    tcase_add_test(t, nothing_to_close);
    suite_add_tcase(s, t);
    return run_suite(s);
}
