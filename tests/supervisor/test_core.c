/*
 * The child's state machine: every cell of the table against what D16 asks for, then the rules that span several events,
 * on a clock of the test's own.
 */

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "supervisor/core.h"

#define S INT64_C(1000000000)

static Core core;
static int64_t now, hang; /* hang: child.hang.ms */

static unsigned step(CoreEventType type)
{
    CoreEvent ev = {.type = type, .now_ns = now, .timeout_ns = 30 * S, .exit_code = 1, .ok = true};

    if (type == CORE_EV_TICK)
        ev.timeout_ns = hang;

    return core_step(&core, &ev);
}

static unsigned exited(int code, int signal)
{
    CoreEvent ev = {.type = CORE_EV_EXITED, .now_ns = now, .exit_code = code, .signal = signal};

    return core_step(&core, &ev);
}

static void setup(void)
{
    now = 1000 * S;
    hang = 10 * S;
    core_init(&core);
}

/* Brings the machine into a state by the shortest way. */
static void go(CoreState state)
{
    setup();
    if (state == CORE_STOPPED)
        return;
    step(CORE_EV_START);
    if (state == CORE_FAILED)
        exited(78, 0);
    if (state == CORE_BACKOFF) {
        exited(1, 0);
        exited(1, 0);
    }
    if (state == CORE_READY || state == CORE_DRAINING)
        step(CORE_EV_READY);
    if (state == CORE_DRAINING)
        step(CORE_EV_DRAIN);
    if (state == CORE_STOPPING)
        step(CORE_EV_STOP);
    ck_assert_int_eq(core.state, state);
}

#define BC    CORE_DO_BROADCAST
#define SPAWN (CORE_DO_SPAWN | BC)
#define STOPS (CORE_DO_SEND_STOP | BC)
#define DIED  CORE_DO_TELL_DIED

typedef struct Cell {
    CoreState next;
    unsigned actions;
} Cell;

#define SAME(s)                                                                                    \
    {                                                                                              \
        s, 0                                                                                       \
    }
/* TICK comes 1 s later; EXITED is exit code 1. */
static const Cell cells[CORE_STATE_COUNT][CORE_EV_COUNT] = {
    [CORE_STOPPED] = {[CORE_EV_START] = {CORE_STARTING, SPAWN},
                      [CORE_EV_STOP] = SAME(CORE_STOPPED),
                      [CORE_EV_RESTART] = {CORE_STARTING, SPAWN},
                      [CORE_EV_DRAIN] = SAME(CORE_STOPPED),
                      [CORE_EV_UNDRAIN] = SAME(CORE_STOPPED),
                      [CORE_EV_READY] = SAME(CORE_STOPPED),
                      [CORE_EV_DRAINED] = SAME(CORE_STOPPED),
                      [CORE_EV_EXITED] = SAME(CORE_STOPPED),
                      [CORE_EV_HEARTBEAT] = SAME(CORE_STOPPED),
                      [CORE_EV_EXTEND] = SAME(CORE_STOPPED),
                      [CORE_EV_TICK] = SAME(CORE_STOPPED)    },
    [CORE_STARTING] = {[CORE_EV_START] = SAME(CORE_STARTING),
                      [CORE_EV_STOP] = {CORE_STOPPING, STOPS},
                      [CORE_EV_RESTART] = {CORE_STOPPING, STOPS},
                      [CORE_EV_DRAIN] = SAME(CORE_STARTING),
                      [CORE_EV_UNDRAIN] = SAME(CORE_STARTING),
                      [CORE_EV_READY] = {CORE_READY, CORE_DO_FORGET_REASON | BC},
                      [CORE_EV_DRAINED] = SAME(CORE_STARTING),
                      [CORE_EV_EXITED] = {CORE_STARTING, DIED | SPAWN},
                      [CORE_EV_HEARTBEAT] = SAME(CORE_STARTING),
                      [CORE_EV_EXTEND] = SAME(CORE_STARTING),
                      [CORE_EV_TICK] = SAME(CORE_STARTING)   },
    [CORE_READY] = {[CORE_EV_START] = SAME(CORE_READY),
                      [CORE_EV_STOP] = {CORE_STOPPING, STOPS},
                      [CORE_EV_RESTART] = {CORE_STOPPING, STOPS},
                      [CORE_EV_DRAIN] = {CORE_DRAINING, CORE_DO_SEND_DRAIN | BC},
                      [CORE_EV_UNDRAIN] = SAME(CORE_READY),
                      [CORE_EV_READY] = SAME(CORE_READY),
                      [CORE_EV_DRAINED] = SAME(CORE_READY),
                      [CORE_EV_EXITED] = {CORE_STARTING, DIED | SPAWN},
                      [CORE_EV_HEARTBEAT] = SAME(CORE_READY),
                      [CORE_EV_EXTEND] = SAME(CORE_READY),
                      [CORE_EV_TICK] = SAME(CORE_READY)      },
    [CORE_DRAINING] = {[CORE_EV_START] = SAME(CORE_DRAINING),
                      [CORE_EV_STOP] = {CORE_STOPPING, STOPS},
                      [CORE_EV_RESTART] = {CORE_STOPPING, STOPS},
                      [CORE_EV_DRAIN] = {CORE_DRAINING, CORE_DO_SEND_DRAIN | BC},
                      [CORE_EV_UNDRAIN] = {CORE_READY, CORE_DO_SEND_UNDRAIN | BC},
                      [CORE_EV_READY] = SAME(CORE_DRAINING),
                      [CORE_EV_DRAINED] = SAME(CORE_DRAINING),
                      [CORE_EV_EXITED] = {CORE_STARTING, DIED | SPAWN},
                      [CORE_EV_HEARTBEAT] = SAME(CORE_DRAINING),
                      [CORE_EV_EXTEND] = SAME(CORE_DRAINING),
                      [CORE_EV_TICK] = SAME(CORE_DRAINING)   },
    [CORE_STOPPING] = {[CORE_EV_START] = SAME(CORE_STOPPING),
                      [CORE_EV_STOP] = SAME(CORE_STOPPING),
                      [CORE_EV_RESTART] = SAME(CORE_STOPPING),
                      [CORE_EV_DRAIN] = SAME(CORE_STOPPING),
                      [CORE_EV_UNDRAIN] = SAME(CORE_STOPPING),
                      [CORE_EV_READY] = SAME(CORE_STOPPING),
                      [CORE_EV_DRAINED] = SAME(CORE_STOPPING),
                      [CORE_EV_EXITED] = {CORE_STOPPED, DIED | BC},
                      [CORE_EV_HEARTBEAT] = SAME(CORE_STOPPING),
                      [CORE_EV_EXTEND] = SAME(CORE_STOPPING),
                      [CORE_EV_TICK] = SAME(CORE_STOPPING)   },
    [CORE_BACKOFF] = {[CORE_EV_START] = {CORE_STARTING, SPAWN},
                      [CORE_EV_STOP] = {CORE_STOPPED, BC},
                      [CORE_EV_RESTART] = {CORE_STARTING, SPAWN},
                      [CORE_EV_DRAIN] = SAME(CORE_BACKOFF),
                      [CORE_EV_UNDRAIN] = SAME(CORE_BACKOFF),
                      [CORE_EV_READY] = SAME(CORE_BACKOFF),
                      [CORE_EV_DRAINED] = SAME(CORE_BACKOFF),
                      [CORE_EV_EXITED] = SAME(CORE_BACKOFF),
                      [CORE_EV_HEARTBEAT] = SAME(CORE_BACKOFF),
                      [CORE_EV_EXTEND] = SAME(CORE_BACKOFF),
                      [CORE_EV_TICK] = {CORE_STARTING, SPAWN}},
    [CORE_FAILED] = {[CORE_EV_START] = {CORE_STARTING, CORE_DO_FORGET_REASON | SPAWN},
                      [CORE_EV_STOP] = SAME(CORE_FAILED),
                      [CORE_EV_RESTART] = {CORE_STARTING, CORE_DO_FORGET_REASON | SPAWN},
                      [CORE_EV_DRAIN] = SAME(CORE_FAILED),
                      [CORE_EV_UNDRAIN] = SAME(CORE_FAILED),
                      [CORE_EV_READY] = SAME(CORE_FAILED),
                      [CORE_EV_DRAINED] = SAME(CORE_FAILED),
                      [CORE_EV_EXITED] = SAME(CORE_FAILED),
                      [CORE_EV_HEARTBEAT] = SAME(CORE_FAILED),
                      [CORE_EV_EXTEND] = SAME(CORE_FAILED),
                      [CORE_EV_TICK] = SAME(CORE_FAILED)     },
};

START_TEST(every_cell)
{
    CoreState state = (CoreState)(_i / CORE_EV_COUNT);
    CoreEventType type = (CoreEventType)(_i % CORE_EV_COUNT);
    const Cell *cell = &cells[state][type];
    unsigned actions;

    go(state);
    if (type == CORE_EV_TICK)
        now += S;
    actions = step(type);
    ck_assert_msg(core.state == cell->next, "state %s event %d: now %s", core_state_name(state),
                  (int)type, core_state_name(core.state));
    ck_assert_msg(actions == cell->actions, "state %s event %d: actions %x", core_state_name(state),
                  (int)type, actions);
}
END_TEST

START_TEST(five_deaths_at_start_fail_for_good)
{
    static const int64_t waits[] = {0, S / 10, 7 * S / 10, 5 * S};

    step(CORE_EV_START);
    for (int i = 0; i < 4; i++) {
        unsigned actions = exited(-1, 11);

        ck_assert_uint_ne(actions & CORE_DO_TELL_DIED, 0);
        if (waits[i] > 0) {
            ck_assert_int_eq(core.state, CORE_BACKOFF);
            ck_assert_int_eq(core_deadline_ns(&core), now + waits[i]);
            now += waits[i] - 1;
            ck_assert_uint_eq(step(CORE_EV_TICK), 0);
            now++;
            ck_assert_uint_ne(step(CORE_EV_TICK) & CORE_DO_SPAWN, 0);
        }
        ck_assert_int_eq(core.state, CORE_STARTING);
    }
    ck_assert_uint_eq(core.restarts, 4);
    ck_assert_uint_eq(exited(-1, 11), CORE_DO_TELL_DIED | CORE_DO_KEEP_REASON | CORE_DO_BROADCAST);
    ck_assert_int_eq(core.state, CORE_FAILED);
    ck_assert_int_eq(core.failure, CORE_FAILURE_CRASH_LOOP);
    now += 3600 * S;
    ck_assert_uint_eq(step(CORE_EV_TICK), 0);
    ck_assert_uint_eq(step(CORE_EV_START), CORE_DO_FORGET_REASON | SPAWN);
    ck_assert_uint_eq(core.counted_deaths, 0);
}
END_TEST

START_TEST(deaths_after_a_second_of_ready_do_not_count)
{
    step(CORE_EV_START);
    for (int i = 0; i < 50; i++) {
        step(CORE_EV_READY);
        now += S; /* exactly 1 s: no longer a death at start */
        ck_assert_uint_ne(exited(-1, 9) & CORE_DO_SPAWN, 0);
    }
    ck_assert_uint_eq(core.counted_deaths, 0);
    for (int i = 0; i < 4; i++) {
        if (core.state == CORE_BACKOFF) {
            now = core_deadline_ns(&core);
            step(CORE_EV_TICK);
        }
        step(CORE_EV_READY);
        now += S - 1;
        exited(-1, 9);
    }
    ck_assert_uint_eq(core.counted_deaths, 4);
    ck_assert_int_eq(core.state, CORE_BACKOFF);
}
END_TEST

START_TEST(ten_seconds_of_ready_clear_the_count)
{
    go(CORE_BACKOFF);
    ck_assert_uint_eq(core.counted_deaths, 2);
    now = core_deadline_ns(&core);
    step(CORE_EV_TICK);
    step(CORE_EV_READY);
    now += 9 * S;
    step(CORE_EV_HEARTBEAT);
    step(CORE_EV_TICK);
    ck_assert_uint_eq(core.counted_deaths, 2);
    now += S;
    step(CORE_EV_HEARTBEAT);
    step(CORE_EV_TICK);
    ck_assert_uint_eq(core.counted_deaths, 0);
}
END_TEST

static const struct {
    int code;
    CoreFailure failure;
} never_retried[] = {
    {64, CORE_FAILURE_USAGE  },
    {65, CORE_FAILURE_DATA   },
    {74, CORE_FAILURE_STORAGE},
    {78, CORE_FAILURE_CONFIG }
};

START_TEST(some_exits_are_never_retried)
{
    static const CoreState from[] = {CORE_STARTING, CORE_READY, CORE_DRAINING, CORE_STOPPING};

    for (size_t i = 0; i < ARRAY_SIZE(from); i++) {
        go(from[i]);
        now += 100 * S;
        ck_assert_uint_ne(exited(never_retried[_i].code, 0) & CORE_DO_KEEP_REASON, 0);
        ck_assert_int_eq(core.state, CORE_FAILED);
        ck_assert_int_eq(core.failure, never_retried[_i].failure);
    }
    go(CORE_READY); /* a signal number is no exit code */
    exited(-1, never_retried[_i].code);
    ck_assert_int_eq(core.state, CORE_STARTING);
}
END_TEST

START_TEST(a_hung_child_is_aborted_then_killed)
{
    static const CoreState from[] = {CORE_STARTING, CORE_READY, CORE_DRAINING, CORE_STOPPING};

    go(from[_i]);
    for (int i = 0; i < 9; i++) {
        now += S;
        ck_assert_uint_eq(step(CORE_EV_TICK), 0);
    }
    now += S;
    ck_assert_uint_eq(step(CORE_EV_TICK), CORE_DO_ABORT);
    ck_assert_int_eq(core_deadline_ns(&core), now + 2 * S);
    step(CORE_EV_HEARTBEAT); /* too late: it may be half dead */
    now += 2 * S - 1;
    ck_assert_uint_eq(step(CORE_EV_TICK), 0);
    now++;
    ck_assert_uint_eq(step(CORE_EV_TICK), CORE_DO_KILL);
    now += S;
    ck_assert_uint_eq(step(CORE_EV_TICK), 0);
}
END_TEST

START_TEST(a_hang_is_as_long_as_it_is_set_to_be)
{
    go(CORE_READY);
    now += 4 * S;
    ck_assert_uint_eq(step(CORE_EV_TICK), 0);
    hang = 3 * S; /* set by a reload: counts from the next tick on */
    ck_assert_uint_eq(step(CORE_EV_TICK), CORE_DO_ABORT);
}
END_TEST

START_TEST(heartbeats_and_announced_silence_keep_it_alive)
{
    CoreEvent silence = {.type = CORE_EV_EXTEND, .timeout_ns = 60 * S};

    go(CORE_STARTING);
    for (int i = 0; i < 100; i++) {
        now += S;
        step(CORE_EV_HEARTBEAT);
        ck_assert_uint_eq(step(CORE_EV_TICK), 0);
    }
    silence.now_ns = now;
    ck_assert_uint_eq(core_step(&core, &silence), 0);
    for (int i = 0; i < 69; i++) {
        now += S;
        ck_assert_uint_eq(step(CORE_EV_TICK), 0);
    }
    now += S;
    ck_assert_uint_eq(step(CORE_EV_TICK), CORE_DO_ABORT);
}
END_TEST

START_TEST(absurd_patience_does_not_overflow)
{
    CoreEvent ev = {.type = CORE_EV_EXTEND, .now_ns = now, .timeout_ns = INT64_MAX};

    go(CORE_STOPPING);
    core_step(&core, &ev);
    ck_assert_int_gt(core_deadline_ns(&core), now);
    go(CORE_READY);
    ev.type = CORE_EV_DRAIN;
    core_step(&core, &ev);
    ck_assert_int_eq(core_deadline_ns(&core), INT64_MAX);
    ev = (CoreEvent){.type = CORE_EV_EXTEND, .now_ns = now, .timeout_ns = INT64_MIN};
    core_step(&core, &ev);
    ck_assert_int_ge(core.heartbeat_ns, now);
}
END_TEST

START_TEST(a_supervisor_that_slept_kills_nobody)
{
    go(CORE_READY);
    now += 60 * S; /* the whole group was stopped */
    ck_assert_uint_eq(step(CORE_EV_TICK), 0);
    for (int i = 0; i < 9; i++) {
        now += S;
        ck_assert_uint_eq(step(CORE_EV_TICK), 0);
    }
    now += S;
    ck_assert_uint_eq(step(CORE_EV_TICK), CORE_DO_ABORT);
}
END_TEST

START_TEST(a_drain_survives_a_death)
{
    go(CORE_DRAINING);
    now += 5 * S;
    ck_assert_uint_ne(exited(-1, 9) & CORE_DO_SPAWN, 0);
    ck_assert_uint_eq(step(CORE_EV_READY),
                      CORE_DO_FORGET_REASON | CORE_DO_SEND_DRAIN | CORE_DO_BROADCAST);
    ck_assert_int_eq(core.state, CORE_DRAINING);
    ck_assert(!core.drained);
    step(CORE_EV_DRAINED);
    ck_assert(core.drained && core.drained_ok);
    ck_assert_int_eq(core_deadline_ns(&core), INT64_MAX);
    ck_assert_uint_eq(step(CORE_EV_UNDRAIN), CORE_DO_SEND_UNDRAIN | CORE_DO_BROADCAST);
    exited(-1, 9);
    step(CORE_EV_READY);
    ck_assert_int_eq(core.state, CORE_READY);
}
END_TEST

START_TEST(a_drain_ends_with_its_patience)
{
    go(CORE_DRAINING);
    for (int i = 0; i < 30; i++) {
        ck_assert(!core.drained);
        now += S;
        step(CORE_EV_HEARTBEAT);
        ck_assert_uint_eq(step(CORE_EV_TICK), 0);
    }
    ck_assert(core.drained && !core.drained_ok);
    step(CORE_EV_DRAIN); /* who asks again waits again */
    ck_assert(!core.drained);
    ck_assert_int_eq(core_deadline_ns(&core), now + 30 * S);
    step(CORE_EV_DRAINED);
    ck_assert(core.drained && core.drained_ok);
    step(CORE_EV_DRAIN); /* members may have joined since, through the sessions that were there */
    ck_assert(!core.drained);
}
END_TEST

START_TEST(a_stop_that_takes_too_long_is_killed)
{
    go(CORE_STOPPING);
    for (int i = 0; i < 29; i++) {
        now += S;
        step(CORE_EV_HEARTBEAT);
        ck_assert_uint_eq(step(CORE_EV_TICK), 0);
    }
    now += S;
    step(CORE_EV_HEARTBEAT);
    ck_assert_uint_eq(step(CORE_EV_TICK), CORE_DO_KILL);
    ck_assert_int_eq(core_deadline_ns(&core), INT64_MAX);
    exited(-1, 9);
    ck_assert_int_eq(core.state, CORE_STOPPED);
    ck_assert(!core.exited_clean);
}
END_TEST

START_TEST(restart_comes_up_again_and_stop_wins_over_it)
{
    go(CORE_READY);
    ck_assert_uint_eq(step(CORE_EV_RESTART), STOPS);
    ck_assert_uint_eq(exited(0, 0), CORE_DO_TELL_DIED | SPAWN);
    ck_assert_int_eq(core.state, CORE_STARTING);
    ck_assert_uint_eq(core.restarts, 0);
    step(CORE_EV_READY);
    step(CORE_EV_RESTART);
    step(CORE_EV_STOP);
    exited(0, 0);
    ck_assert_int_eq(core.state, CORE_STOPPED);
    ck_assert(core.exited_clean);
    go(CORE_STOPPING);
    step(CORE_EV_START);
    exited(0, 0);
    ck_assert_int_eq(core.state, CORE_STARTING);
}
END_TEST

/* Whatever comes in whatever order: one process at most, and a deadline whenever one is owed. */
START_TEST(random_walk_keeps_the_invariants)
{
    Rng rng;
    bool process = false;

    rng_init(&rng, (uint64_t)_i);
    for (int i = 0; i < 4000; i++) {
        CoreEvent ev = {.type = (CoreEventType)rng_below(&rng, CORE_EV_COUNT),
                        .ok = rng_below(&rng, 2) == 0};
        unsigned actions;

        now += (int64_t)rng_below(&rng, (uint64_t)(3 * S));
        ev.now_ns = now;
        ev.timeout_ns = (int64_t)rng_below(&rng, (uint64_t)(20 * S));
        if (ev.type == CORE_EV_EXITED) {
            static const int codes[] = {0, 1, 74, 134};

            if (!process)
                continue;
            process = false;
            ev.exit_code = codes[rng_below(&rng, 4)];
        }
        actions = core_step(&core, &ev);
        if ((actions & CORE_DO_SPAWN) != 0) {
            ck_assert(!process);
            process = true;
        }
        ck_assert(process == core_is_running(&core));
        if ((actions & (CORE_DO_ABORT | CORE_DO_KILL | CORE_DO_SEND_STOP)) != 0)
            ck_assert(process);
        if (core.state == CORE_BACKOFF || (core.state == CORE_STOPPING && !core.kill_sent))
            ck_assert_int_ne(core_deadline_ns(&core), INT64_MAX);
        ck_assert((core.state == CORE_FAILED) == (core.failure != CORE_FAILURE_NONE));
        ck_assert_uint_lt(core.counted_deaths, CORE_DEATHS_MAX + 1);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("core");
    TCase *t = tcase_create("core");
    SRunner *r = srunner_create(s);
    int failed;

    suite_add_tcase(s, t);
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_loop_test(t, every_cell, 0, CORE_STATE_COUNT * CORE_EV_COUNT);
    tcase_add_test(t, five_deaths_at_start_fail_for_good);
    tcase_add_test(t, deaths_after_a_second_of_ready_do_not_count);
    tcase_add_test(t, ten_seconds_of_ready_clear_the_count);
    tcase_add_loop_test(t, some_exits_are_never_retried, 0, (int)ARRAY_SIZE(never_retried));
    tcase_add_loop_test(t, a_hung_child_is_aborted_then_killed, 0, 4);
    tcase_add_test(t, a_hang_is_as_long_as_it_is_set_to_be);
    tcase_add_test(t, heartbeats_and_announced_silence_keep_it_alive);
    tcase_add_test(t, absurd_patience_does_not_overflow);
    tcase_add_test(t, a_supervisor_that_slept_kills_nobody);
    tcase_add_test(t, a_drain_survives_a_death);
    tcase_add_test(t, a_drain_ends_with_its_patience);
    tcase_add_test(t, a_stop_that_takes_too_long_is_killed);
    tcase_add_test(t, restart_comes_up_again_and_stop_wins_over_it);
    tcase_add_loop_test(t, random_walk_keeps_the_invariants, 1, 9);
    srunner_run_all(r, CK_ENV);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
