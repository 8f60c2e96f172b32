/* The table of core.h. Each cell is a function; no cell is empty, which a test holds. */

#include "supervisor/core.h"

typedef unsigned (*Handler)(Core *c, const CoreEvent *ev);

/* Before the second, third and fourth try to restart; the first is at once. */
static const int64_t backoff_ns[CORE_DEATHS_MAX - 1] = {0, 100000000, 700000000, 5000000000};

static unsigned ignore(Core *c UNUSED, const CoreEvent *ev UNUSED)
{
    return 0;
}

static unsigned spawn(Core *c, const CoreEvent *ev)
{
    assert(!core_is_running(c));
    c->state = CORE_STARTING;
    c->heartbeat_ns = ev->now_ns;
    c->tick_ns = ev->now_ns;
    c->ready_ns = 0;
    c->deadline_ns = INT64_MAX;
    c->abort_ns = 0;
    c->kill_sent = c->drained = c->drained_ok = c->restart_wanted = false;
    return CORE_DO_SPAWN | CORE_DO_BROADCAST;
}

static unsigned start(Core *c, const CoreEvent *ev)
{
    unsigned actions = c->failure == CORE_FAILURE_NONE ? 0u : CORE_DO_FORGET_REASON;

    c->failure = CORE_FAILURE_NONE;
    c->counted_deaths = 0;
    return actions | spawn(c, ev);
}

static unsigned stop(Core *c, const CoreEvent *ev)
{
    assert(core_is_running(c));
    c->state = CORE_STOPPING;
    c->deadline_ns = ev->now_ns + CORE_STOP_NS;
    c->restart_wanted = false;
    return CORE_DO_SEND_STOP | CORE_DO_BROADCAST;
}

static unsigned stop_waiting(Core *c, const CoreEvent *ev UNUSED)
{
    assert(c->state == CORE_BACKOFF);
    c->state = CORE_STOPPED;
    c->deadline_ns = INT64_MAX;
    return CORE_DO_BROADCAST;
}

static unsigned restart(Core *c, const CoreEvent *ev)
{
    unsigned actions = stop(c, ev);

    c->restart_wanted = true;
    c->counted_deaths = 0;
    return actions;
}

static unsigned want_up(Core *c, const CoreEvent *ev UNUSED)
{
    c->restart_wanted = true;
    return 0;
}

static unsigned want_down(Core *c, const CoreEvent *ev UNUSED)
{
    c->restart_wanted = false;
    return 0;
}

static unsigned want_drain(Core *c, const CoreEvent *ev)
{
    c->drain_wanted = true;
    c->drain_ns = ev->timeout_ns;
    return 0;
}

static unsigned want_no_drain(Core *c, const CoreEvent *ev UNUSED)
{
    c->drain_wanted = false;
    return 0;
}

static unsigned begin_drain(Core *c, const CoreEvent *ev)
{
    c->state = CORE_DRAINING;
    c->drained = c->drained_ok = false;
    c->deadline_ns = c->drain_ns > INT64_MAX - ev->now_ns ? INT64_MAX : ev->now_ns + c->drain_ns;
    return CORE_DO_SEND_DRAIN | CORE_DO_BROADCAST;
}

static unsigned drain(Core *c, const CoreEvent *ev)
{
    (void)want_drain(c, ev);
    return begin_drain(c, ev);
}

static unsigned undrain(Core *c, const CoreEvent *ev UNUSED)
{
    assert(c->state == CORE_DRAINING);
    c->state = CORE_READY;
    c->drain_wanted = c->drained = c->drained_ok = false;
    c->deadline_ns = INT64_MAX;
    return CORE_DO_SEND_UNDRAIN | CORE_DO_BROADCAST;
}

static unsigned ready(Core *c, const CoreEvent *ev)
{
    assert(c->state == CORE_STARTING);
    c->state = CORE_READY;
    c->ready_ns = ev->now_ns;
    c->heartbeat_ns = ev->now_ns;
    if (c->drain_wanted)
        return CORE_DO_FORGET_REASON | begin_drain(c, ev);
    return CORE_DO_FORGET_REASON | CORE_DO_BROADCAST;
}

static unsigned drained(Core *c, const CoreEvent *ev)
{
    c->drained = true;
    c->drained_ok = ev->ok;
    c->deadline_ns = INT64_MAX;
    return 0;
}

static CoreFailure failure_of(const CoreEvent *ev)
{
    if (ev->signal != 0)
        return CORE_FAILURE_NONE;
    switch (ev->exit_code) {
    case 64:
        return CORE_FAILURE_USAGE;
    case 65:
        return CORE_FAILURE_DATA;
    case 74:
        return CORE_FAILURE_STORAGE;
    case 78:
        return CORE_FAILURE_CONFIG;
    default:
        return CORE_FAILURE_NONE;
    }
}

static unsigned fail(Core *c, CoreFailure failure)
{
    assert(failure != CORE_FAILURE_NONE);
    c->state = CORE_FAILED;
    c->failure = failure;
    c->deadline_ns = INT64_MAX;
    return CORE_DO_TELL_DIED | CORE_DO_KEEP_REASON | CORE_DO_BROADCAST;
}

/* A process ended that was wanted. */
static unsigned died(Core *c, const CoreEvent *ev)
{
    int64_t ready_for_ns = c->ready_ns == 0 ? 0 : ev->now_ns - c->ready_ns;
    CoreFailure failure = failure_of(ev);
    int64_t wait_ns = 0;

    assert(core_is_running(c) && c->state != CORE_STOPPING);
    c->exited_clean = false;
    if (failure != CORE_FAILURE_NONE)
        return fail(c, failure);
    if (ready_for_ns >= CORE_STABLE_NS)
        c->counted_deaths = 0;
    if (c->ready_ns == 0 || ready_for_ns < CORE_COUNTED_NS) {
        c->counted_deaths++;
        if (c->counted_deaths >= CORE_DEATHS_MAX)
            return fail(c, CORE_FAILURE_CRASH_LOOP);
        wait_ns = backoff_ns[c->counted_deaths - 1];
    }
    c->restarts++;
    c->state = CORE_BACKOFF;
    c->deadline_ns = ev->now_ns + wait_ns;
    if (wait_ns == 0)
        return CORE_DO_TELL_DIED | spawn(c, ev);
    return CORE_DO_TELL_DIED | CORE_DO_BROADCAST;
}

/* A process ended that was told to. */
static unsigned stopped(Core *c, const CoreEvent *ev)
{
    CoreFailure failure = failure_of(ev);

    c->exited_clean = ev->signal == 0 && ev->exit_code == 0;
    if (failure != CORE_FAILURE_NONE)
        return fail(c, failure);
    c->state = CORE_STOPPED;
    c->deadline_ns = INT64_MAX;
    if (c->restart_wanted)
        return CORE_DO_TELL_DIED | spawn(c, ev);
    return CORE_DO_TELL_DIED | CORE_DO_BROADCAST;
}

static unsigned alive(Core *c, const CoreEvent *ev)
{
    if (c->heartbeat_ns < ev->now_ns) /* an announced silence reaches further */
        c->heartbeat_ns = ev->now_ns;
    return 0;
}

static unsigned extend(Core *c, const CoreEvent *ev)
{
    int64_t until_ns = ev->now_ns + MIN(MAX(ev->timeout_ns, 0), INT64_MAX / 4);

    (void)alive(c, ev);
    c->heartbeat_ns = MAX(c->heartbeat_ns, until_ns);
    if (c->state == CORE_STOPPING)
        c->deadline_ns = MAX(c->deadline_ns, until_ns + CORE_STOP_NS);
    return 0;
}

static unsigned watch(Core *c, const CoreEvent *ev)
{
    bool was_away = ev->now_ns - c->tick_ns > CORE_TICK_GAP_NS;

    c->tick_ns = ev->now_ns;
    if (was_away &&
        c->abort_ns ==
            0) { /* stopped together with the children, perhaps: they get their time again */
        c->heartbeat_ns = MAX(c->heartbeat_ns, ev->now_ns);
        return 0;
    }
    if (c->abort_ns != 0) {
        if (c->kill_sent || ev->now_ns - c->abort_ns < CORE_KILL_AFTER_NS)
            return 0;
        c->kill_sent = true;
        return CORE_DO_KILL;
    }
    if (ev->now_ns - c->heartbeat_ns < ev->timeout_ns)
        return 0;
    c->abort_ns = ev->now_ns;
    return CORE_DO_ABORT;
}

static unsigned watch_ready(Core *c, const CoreEvent *ev)
{
    if (ev->now_ns - c->ready_ns >= CORE_STABLE_NS)
        c->counted_deaths = 0;
    return watch(c, ev);
}

static unsigned watch_drain(Core *c, const CoreEvent *ev)
{
    if (!c->drained && ev->now_ns >= c->deadline_ns) {
        c->drained =
            true; /* out of patience: what is not drained is cut off by the stop that follows */
        c->deadline_ns = INT64_MAX;
    }
    return watch_ready(c, ev);
}

static unsigned watch_stop(Core *c, const CoreEvent *ev)
{
    if (!c->kill_sent && ev->now_ns >= c->deadline_ns) {
        c->kill_sent = true;
        return CORE_DO_KILL;
    }
    return watch(c, ev);
}

static unsigned wait_backoff(Core *c, const CoreEvent *ev)
{
    return ev->now_ns >= c->deadline_ns ? spawn(c, ev) : 0;
}

/* clang-format off */
static const Handler handlers[][CORE_EV_COUNT] = {
    /*                  START    STOP          RESTART  DRAIN       UNDRAIN        READY   DRAINED  EXITED   HEARTBEAT EXTEND  TICK */
    [CORE_STOPPED]  = { start,   ignore,       start,   want_drain, want_no_drain, ignore, ignore,  ignore,  ignore,   ignore, ignore },
    [CORE_STARTING] = { ignore,  stop,         restart, want_drain, want_no_drain, ready,  ignore,  died,    alive,    extend, watch },
    [CORE_READY]    = { ignore,  stop,         restart, drain,      want_no_drain, ignore, ignore,  died,    alive,    extend, watch_ready },
    [CORE_DRAINING] = { ignore,  stop,         restart, drain,      undrain,       ignore, drained, died,    alive,    extend, watch_drain },
    [CORE_STOPPING] = { want_up, want_down,    want_up, want_drain, want_no_drain, ignore, ignore,  stopped, alive,    extend, watch_stop },
    [CORE_BACKOFF]  = { start,   stop_waiting, start,   want_drain, want_no_drain, ignore, ignore,  ignore,  ignore,   ignore, wait_backoff },
    [CORE_FAILED]   = { start,   ignore,       start,   want_drain, want_no_drain, ignore, ignore,  ignore,  ignore,   ignore, ignore },
};
/* clang-format on */
static_assert(ARRAY_SIZE(handlers) == CORE_STATE_COUNT, "one row per state");

void core_init(Core *c)
{
    *c = (Core){.state = CORE_STOPPED, .deadline_ns = INT64_MAX, .exited_clean = true};
}

unsigned core_step(Core *c, const CoreEvent *ev)
{
    assert((size_t)c->state < CORE_STATE_COUNT);
    assert((size_t)ev->type < CORE_EV_COUNT);
    return handlers[c->state][ev->type](c, ev);
}

int64_t core_deadline_ns(const Core *c)
{
    int64_t kill_ns =
        c->abort_ns != 0 && !c->kill_sent ? c->abort_ns + CORE_KILL_AFTER_NS : INT64_MAX;

    if (!core_is_running(c))
        return c->deadline_ns;
    if (c->state == CORE_STOPPING && c->kill_sent)
        return INT64_MAX; /* nothing left to do but wait for the kernel */
    return MIN(kill_ns, c->deadline_ns);
}

bool core_is_running(const Core *c)
{
    return c->state == CORE_STARTING || c->state == CORE_READY || c->state == CORE_DRAINING ||
           c->state == CORE_STOPPING;
}

bool core_is_up(const Core *c)
{
    return c->state == CORE_READY || c->state == CORE_DRAINING;
}

bool core_is_down(const Core *c)
{
    return c->state == CORE_STOPPED || c->state == CORE_FAILED;
}

const char *core_state_name(CoreState state)
{
    static const char *const names[CORE_STATE_COUNT] = {"stopped",  "starting", "ready", "draining",
                                                        "stopping", "backoff",  "failed"};

    assert((size_t)state < CORE_STATE_COUNT);
    return names[state];
}

const char *core_failure_name(CoreFailure failure)
{
    static const char *const names[] = {"",        "crash loop",   "usage", "damaged data",
                                        "storage", "configuration"};

    static_assert(ARRAY_SIZE(names) == CORE_FAILURE_CONFIG + 1, "one name per failure");
    assert((size_t)failure < ARRAY_SIZE(names));
    return names[failure];
}
