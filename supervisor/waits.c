/* See waits.h. */

#include "supervisor/waits.h"

#include <stdlib.h>

#include "base/clock.h"
#include "supervisor/answer.h"
#include "supervisor/process.h"
#include "supervisor/reload.h"
#include "supervisor/wallclock.h"

/* A kind: when it is over, and what is answered then. What runs out of time says that it has not reached its goal. */
typedef struct Kind {
    const char *goal;
    bool (*is_done)(Node *n, Wait *w);
    void (*answer)(Node *n, Wait *w);
} Kind;

static NodeChild *child_of(Node *n, const Wait *w)
{
    return w->role < ROW_COUNT ? node_child(n, w->role) : NULL;
}

static bool is_up(Node *n, Wait *w)
{
    return core_is_up(&child_of(n, w)->core);
}

static bool is_down(Node *n, Wait *w)
{
    return core_is_down(&child_of(n, w)->core);
}

/* Of all: on with the next one, until the last is up again. */
static bool is_restarted(Node *n, Wait *w)
{
    const NodeChild *c = child_of(n, w);

    if (!core_is_up(&c->core) || c->pid == w->old_pid)
        return false;
    if (!w->all || w->role + 1 >= ROW_COUNT)
        return true;
    w->role++;
    w->old_pid = node_child(n, w->role)->pid;
    process_feed(node_child(n, w->role), CORE_EV_RESTART, 0);
    return false;
}

/* All are told one after the other; the first one shows whether it was taken back. */
static bool is_drain_wanted(Node *n)
{
    return node_child(n, ROW_CONTROLLER)->core.drain_wanted;
}

static bool is_drained(Node *n, Wait *w UNUSED)
{
    return node_is_drained(n) || !is_drain_wanted(n);
}

static bool is_reloaded(Node *n, Wait *w UNUSED)
{
    return !reload_is_under_way(n);
}

static bool is_clock_accepted(Node *n, Wait *w UNUSED)
{
    return !wallclock_is_under_way(n);
}

/* Answered by waits_finish(). */
static bool never(Node *n UNUSED, Wait *w UNUSED)
{
    return false;
}

static void answer_done(Node *n UNUSED, Wait *w)
{
    control_answer(w->call, 0, NULL, NULL);
}

static void answer_drained(Node *n, Wait *w)
{
    if (!is_drain_wanted(n)) {
        answer_refuse(w->call, ANSWER_CONFLICT, "the drain was taken back by undrain");
        return;
    }
    node_for_each(c, n)
    {
        if (core_is_up(&c->core) && !c->core.drained_ok) {
            answer_refuse(w->call, ANSWER_TIMED_OUT,
                          "%s still had work when the time was over; new sessions stay refused "
                          "until: mqctl supervisor undrain",
                          child_role_name(c->role));
            return;
        }
    }
    control_answer(w->call, 0, NULL, NULL);
}

static void answer_reloaded(Node *n, Wait *w)
{
    reload_answer(n, w->call, json_incref(w->body));
}

static void answer_clock(Node *n, Wait *w)
{
    wallclock_answer(n, w->call, json_incref(w->body));
}

/* clang-format off */
static const Kind kinds[] = {
    [WAIT_UP]             = {"ready", is_up, answer_done},
    [WAIT_DOWN]           = {"down", is_down, answer_done},
    [WAIT_RESTARTED]      = {"ready again", is_restarted, answer_done},
    [WAIT_DRAINED]        = {"drained", is_drained, answer_drained},
    [WAIT_RELOADED]       = {"reloaded", is_reloaded, answer_reloaded},
    [WAIT_CLOCK_ACCEPTED] = {"through with the clock", is_clock_accepted, answer_clock},
    [WAIT_END]            = {"stopped", never, answer_done},
};
/* clang-format on */
static_assert(ARRAY_SIZE(kinds) == WAIT_KIND_COUNT, "one row per kind");

static void answer_failure(Wait *w, const NodeChild *c)
{
    char how[32];

    process_describe_exit(&c->last_exit, how, sizeof(how));
    answer_refuse(w->call, ANSWER_FAILED, "%s failed: %s (%s)%s%s", child_role_name(c->role),
                  core_failure_name(c->core.failure), how, c->last_exit.why[0] == '\0' ? "" : ": ",
                  c->last_exit.why);
}

static void answer_timeout(Node *n, Wait *w)
{
    if (w->kind == WAIT_RELOADED) /* it says which processes have not answered */
        reload_answer(n, w->call, json_incref(w->body));
    else
        answer_refuse(w->call, ANSWER_TIMED_OUT, "%s is not %s yet; the work goes on",
                      w->role == ROW_COUNT ? "the node" : child_role_name(w->role),
                      kinds[w->kind].goal);
}

/* Return: true when the wait was answered. */
static bool look(Node *n, Wait *w)
{
    const NodeChild *c = child_of(n, w);

    if (c != NULL && (n->phase == NODE_DRAINING || n->phase == NODE_STOPPING))
        answer_refuse(w->call, ANSWER_CONFLICT, "the node is stopping");
    else if (c != NULL && c->core.state == CORE_FAILED && w->kind != WAIT_DOWN)
        answer_failure(w, c);
    else if (kinds[w->kind].is_done(n, w))
        kinds[w->kind].answer(n, w);
    else if (clock_mono_ns() >= w->deadline_ns)
        answer_timeout(n, w);
    else
        return false;
    return true;
}

static void end(Wait *w)
{
    list_remove(&w->link);
    json_decref(w->body);
    free(w);
}

Wait *waits_add(Node *n, ControlCall *call, WaitKind kind, CountersRole role, int64_t timeout_ns)
{
    Wait *w = calloc(1, sizeof(*w));

    if (w == NULL) {
        answer_refuse(call, ANSWER_FAILED, "out of memory");
        return NULL;
    }
    *w = (Wait){
        .call = call, .kind = kind, .role = role, .deadline_ns = clock_mono_ns() + timeout_ns};
    list_append(&n->waits, &w->link);
    node_arm_tick(n);
    return w;
}

void waits_look(Node *n)
{
    static bool
        looking; /* is_restarted() moves a child, which comes back here; the outer round sees all */

    if (looking)
        return;
    looking = true;
    list_for_each_safe (l, &n->waits) {
        Wait *w = CONTAINER_OF(l, Wait, link);

        if (look(n, w))
            end(w);
    }
    looking = false;
}

int64_t waits_deadline_ns(const Node *n)
{
    int64_t next = INT64_MAX;

    for (const List *l = n->waits.next; l != &n->waits; l = l->next)
        next = MIN(next, CONTAINER_OF(l, Wait, link)->deadline_ns);
    return next;
}

void waits_finish(Node *n)
{
    for (List *l; (l = list_pop(&n->waits)) != NULL;) {
        Wait *w = CONTAINER_OF(l, Wait, link);

        if (w->kind == WAIT_END)
            control_answer(w->call, n->exit_code == 0 ? 0 : ANSWER_FAILED,
                           n->exit_code == 0 ? NULL : "stopped, but not in order", NULL);
        else
            answer_refuse(w->call, ANSWER_CONFLICT, "the node was stopped");
        end(w);
    }
}
