/* The loop: order inside a turn, sources that free themselves and each other, posts from threads. */

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/loop.h"

static Loop *loop;
static char trace[64];
static size_t n_trace;

static void note(char c)
{
    if (n_trace + 1 < sizeof(trace))
        trace[n_trace++] = c;
    trace[n_trace] = '\0';
}

static void setup(void)
{
    n_trace = 0;
    trace[0] = '\0';
    ck_assert_int_eq(loop_new(&loop), 0);
}

static void teardown(void)
{
    loop = loop_free(loop);
}

static LoopFd *sources[2];

static void free_both(void *userdata, uint32_t events)
{
    (void)userdata;
    (void)events;
    note('f');
    sources[0] = loop_fd_free(sources[0]);
    sources[1] = loop_fd_free(sources[1]);
}

START_TEST(a_freed_source_is_not_called_again_in_the_same_turn)
{
    int a = eventfd(1, EFD_NONBLOCK), b = eventfd(1, EFD_NONBLOCK);

    ck_assert_int_eq(loop_add_fd(loop, a, EPOLLIN, free_both, NULL, &sources[0]), 0);
    ck_assert_int_eq(loop_add_fd(loop, b, EPOLLIN, free_both, NULL, &sources[1]), 0);
    ck_assert_int_eq(loop_turn(loop, 0), 0);
    ck_assert_int_eq(loop_turn(loop, 0), 0);
    ck_assert_str_eq(trace, "f");
    close(a);
    close(b);
}
END_TEST

static LoopTimer *timers[4];

static void timer_a(void *u UNUSED)
{
    note('a');
}
static void timer_b(void *u UNUSED)
{
    note('b');
    timers[2] = loop_timer_free(timers[2]); /* due in this very turn */
    loop_timer_set(timers[3], 0);           /* the past: next turn */
}
static void timer_c(void *u UNUSED)
{
    note('c');
}
static void timer_again(void *u UNUSED)
{
    note('d');
    loop_timer_set(timers[3], 0);
}
static void turn_end(void *u UNUSED)
{
    note('.');
}

START_TEST(timers_run_by_deadline_and_once_per_turn)
{
    int64_t now = clock_mono_ns();

    ck_assert_int_eq(loop_add_turn_end(loop, turn_end, NULL), 0);
    ck_assert_int_eq(loop_add_timer(loop, timer_a, NULL, &timers[0]), 0);
    ck_assert_int_eq(loop_add_timer(loop, timer_b, NULL, &timers[1]), 0);
    ck_assert_int_eq(loop_add_timer(loop, timer_c, NULL, &timers[2]), 0);
    ck_assert_int_eq(loop_add_timer(loop, timer_again, NULL, &timers[3]), 0);
    ck_assert_int_eq(loop_timer_deadline(timers[0]), INT64_MAX);
    loop_timer_set(timers[2], now - 1);
    loop_timer_set(timers[1], now - 2);
    loop_timer_set(timers[0], now - 3);
    ck_assert_int_eq(loop_turn(loop, 0), 0);
    ck_assert_str_eq(trace,
                     "abd."); /* b freed c; d was armed by b while the budget still had c's place */
    ck_assert_int_eq(loop_turn(loop, 0), 0);
    ck_assert_str_eq(trace, "abd.d.");
    loop_timer_set(timers[3], INT64_MAX);
    ck_assert_int_eq(loop_turn(loop, 0), 0);
    ck_assert_str_eq(trace, "abd.d..");
}
END_TEST

static int64_t fired[200];
static size_t n_fired;
static void record_deadline(void *u)
{
    fired[n_fired++] = (int64_t)(intptr_t)u;
}

START_TEST(heap_keeps_order_under_moves)
{
    LoopTimer *many[200];
    int64_t base = clock_mono_ns() - NS_PER_S;

    n_fired = 0;
    for (int i = 0; i < 200; i++) {
        ck_assert_int_eq(
            loop_add_timer(loop, record_deadline, (void *)(intptr_t)(i * 37 % 200), &many[i]), 0);
        loop_timer_set(many[i], base + 500 - i); /* wrong place first */
    }
    for (int i = 0; i < 200; i++)
        loop_timer_set(many[i], base + i * 37 % 200);
    for (int i = 0; i < 200; i += 2)
        many[i] = loop_timer_free(many[i]);
    ck_assert_int_eq(loop_turn(loop, 0), 0);
    ck_assert_uint_eq(n_fired, 100);
    for (size_t i = 1; i < n_fired; i++)
        ck_assert_int_gt(fired[i], fired[i - 1]);
}
END_TEST

START_TEST(sleeps_until_the_nearest_timer)
{
    int64_t begin = clock_mono_ns(), took;

    ck_assert_int_eq(loop_add_timer(loop, timer_a, NULL, &timers[0]), 0);
    loop_timer_set(timers[0], begin + 20 * NS_PER_MS);
    while (n_trace == 0)
        ck_assert_int_eq(loop_turn(loop, -1), 0);
    took = clock_mono_ns() - begin;
    ck_assert_int_ge(took, 20 * NS_PER_MS);
    ck_assert_int_lt(took, NS_PER_S);
}
END_TEST

#define POSTS 2000
static unsigned posted_sum;

static void count_post(void *userdata)
{
    posted_sum += (unsigned)(uintptr_t)userdata;
    if (posted_sum == 2 * POSTS)
        loop_quit(loop, 7);
}

static void *poster(void *userdata)
{
    for (int i = 0; i < POSTS; i++)
        if (loop_post(loop, count_post, userdata) < 0)
            abort();
    return NULL;
}

START_TEST(posts_from_two_threads_all_arrive)
{
    pthread_t a, b;

    posted_sum = 0;
    ck_assert_int_eq(pthread_create(&a, NULL, poster, (void *)1), 0);
    ck_assert_int_eq(pthread_create(&b, NULL, poster, (void *)1), 0);
    ck_assert_int_eq(loop_run(loop), 7);
    pthread_join(a, NULL);
    pthread_join(b, NULL);
    ck_assert_uint_eq(posted_sum, 2 * POSTS);
}
END_TEST

static int hook_asks;
static bool has_work(void *u UNUSED)
{
    hook_asks++;
    return hook_asks >= 3; /* work twice, then nothing */
}

START_TEST(before_sleep_can_keep_the_loop_awake)
{
    hook_asks = 0;
    ck_assert_int_eq(loop_add_before_sleep(loop, has_work, NULL), 0);
    ck_assert_int_eq(loop_add_timer(loop, timer_a, NULL, &timers[0]), 0);
    loop_timer_set(timers[0], clock_mono_ns() + 5 * NS_PER_MS);
    ck_assert_int_eq(loop_turn(loop, -1), 0);
    ck_assert_int_eq(loop_turn(loop, -1), 0);
    ck_assert_int_eq(hook_asks, 2);
    ck_assert_str_eq(trace, "");
    while (n_trace == 0)
        ck_assert_int_eq(loop_turn(loop, -1), 0);
    ck_assert_int_eq(loop_turn(loop, 0), 0); /* no sleep: not asked */
    ck_assert_str_eq(trace, "a");
}
END_TEST

static void nested(void *u UNUSED, uint32_t events UNUSED)
{
    note('n');
    sources[0] = loop_fd_free(sources[0]);
    ck_assert_int_eq(loop_turn(loop, 0), 0);
}

START_TEST(a_handler_may_run_a_nested_turn)
{
    int fd = eventfd(1, EFD_NONBLOCK);

    ck_assert_int_eq(loop_add_fd(loop, fd, EPOLLIN, nested, NULL, &sources[0]), 0);
    ck_assert_int_eq(loop_turn(loop, 0), 0);
    ck_assert_int_eq(loop_turn(loop, 0), 0);
    ck_assert_str_eq(trace, "n");
    close(fd);
}
END_TEST

START_TEST(events_can_be_changed)
{
    int fd = eventfd(0, EFD_NONBLOCK);

    ck_assert_int_eq(loop_add_fd(loop, fd, 0, free_both, NULL, &sources[0]), 0);
    sources[1] = NULL;
    ck_assert_int_eq(loop_turn(loop, 0), 0);
    ck_assert_str_eq(trace, "");
    ck_assert_int_eq(loop_fd_set_events(sources[0], EPOLLOUT), 0);
    ck_assert_int_eq(loop_turn(loop, 0), 0);
    ck_assert_str_eq(trace, "f");
    ck_assert_int_eq(loop_add_fd(loop, -1, EPOLLIN, free_both, NULL, &sources[0]), -EBADF);
    close(fd);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("loop");
    TCase *t = tcase_create("loop");
    SRunner *r = srunner_create(s);
    int failed;

    suite_add_tcase(s, t);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_freed_source_is_not_called_again_in_the_same_turn);
    tcase_add_test(t, timers_run_by_deadline_and_once_per_turn);
    tcase_add_test(t, heap_keeps_order_under_moves);
    tcase_add_test(t, sleeps_until_the_nearest_timer);
    tcase_add_test(t, posts_from_two_threads_all_arrive);
    tcase_add_test(t, before_sleep_can_keep_the_loop_awake);
    tcase_add_test(t, a_handler_may_run_a_nested_turn);
    tcase_add_test(t, events_can_be_changed);
    srunner_run_all(r, CK_ENV);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
