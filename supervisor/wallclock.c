/*
 * See wallclock.h. The broker's answer decides: it keeps the time on disk that all go by after a restart. A coordinator that
 * is away reads it when it comes back.
 */

#include "supervisor/wallclock.h"

#include "base/clock.h"
#include "base/log.h"
#include "supervisor/answer.h"
#include "supervisor/events.h"
#include "supervisor/talk.h"
#include "supervisor/waits.h"

static bool distrusts(Node *n, CountersRole role)
{
    return node_child(n, role)->pid > 0 &&
           counter_get(counters_row(n->counters, role), COUNTER_CLOCK_DISTRUSTED) != 0;
}

bool wallclock_is_distrusted(Node *n)
{
    return distrusts(n, ROW_BROKER) || distrusts(n, ROW_COORDINATOR);
}

void wallclock_watch(Node *n)
{
    bool is_distrusted = wallclock_is_distrusted(n);

    if (is_distrusted == n->is_clock_distrusted)
        return;
    n->is_clock_distrusted = is_distrusted;
    jlog_write(is_distrusted ? LOG_WARNING : LOG_NOTICE, MESSAGE_CLOCK, 0, NULL, 0, "%s",
               is_distrusted ? WALLCLOCK_DISTRUSTED : "the wall clock is believed again");
}

void wallclock_accept(Node *n, ControlCall *call, int64_t timeout_ns)
{
    json_t *body, *distrusted;
    Wait *w;

    if (!core_is_up(&node_child(n, ROW_BROKER)->core)) {
        answer_refuse(
            call, ANSWER_CONFLICT,
            "the broker is not up, which keeps the time that is believed: mqctl supervisor start broker");
        return;
    }
    w = waits_add(n, call, WAIT_CLOCK_ACCEPTED, ROW_COUNT, timeout_ns);
    if (w == NULL)
        return;
    body = json_object();
    distrusted = json_array();
    node_for_each(c, n)
    {
        if (distrusts(n, c->role))
            (void)json_array_append_new(distrusted, json_string(child_role_name(c->role)));
        c->accept_clock.state = ASK_NONE;
        if (core_is_running(&c->core))
            talk_accept_clock(c);
    }
    (void)json_object_set_new(body, "schema", json_string("leat.supervisor.accept-clock/1"));
    (void)json_object_set_new(body, "wall_ms", json_integer(clock_wall_ms()));
    (void)json_object_set_new(body, "distrusted_by", distrusted);
    w->body = body;
}

bool wallclock_is_under_way(Node *n)
{
    node_for_each(c, n)
    {
        if (c->accept_clock.state == ASK_SENT && c->pid > 0)
            return true;
    }
    return false;
}

void wallclock_answer(Node *n, ControlCall *call, json_t *take_body)
{
    const Ask *broker = &node_child(n, ROW_BROKER)->accept_clock;

    if (broker->state == ASK_DONE) {
        answer_json(call, 0, NULL, take_body);
        return;
    }
    json_decref(take_body);
    answer_refuse(call, ANSWER_FAILED, "the clock is not accepted: %s",
                  broker->state == ASK_REFUSED ? broker->text
                                               : "the broker ended meanwhile; ask again");
}
