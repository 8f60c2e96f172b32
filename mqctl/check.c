/* mqctl check: one question each, answered with the statuses of monitoring plugins. */

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "mqctl/groups.h"
#include "mqctl/node.h"
#include "mqctl/output.h"

typedef struct Check {
    Mq *m;
    json_t *status, *results;
    char *why; /* no status */
    int reached; /* exit status of asking for it */
    int worst;
} Check;

static const char *const check_names[] = {"OK", "WARNING", "CRITICAL", "UNKNOWN"};

static int severity(int status)
{
    static const int order[] = {[CHECK_OK] = 0, [CHECK_WARNING] = 1, [CHECK_UNKNOWN] = 2, [CHECK_CRITICAL] = 3};
    return order[status];
}

static void PRINTF_LIKE(4, 5) result(Check *c, const char *what, int status, const char *fmt, ...)
{
    char text[512];
    json_t *row = json_object();
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    doc_set_text(row, "check", what);
    doc_set_text(row, "status", check_names[status]);
    doc_set_text(row, "message", text);
    doc_set_text(row, "look", status == CHECK_OK ? "" : c->status == NULL ? node_mend_command(c->m, c->reached) : node_way_out(c->m, text));
    json_array_append_new(c->results, row);
    if (severity(status) > severity(c->worst))
        c->worst = status;
}

/* Without a status: who may not ask does not know. */
static void no_status(Check *c, const char *what)
{
    result(c, what, c->reached == MQ_E_DENIED ? CHECK_UNKNOWN : CHECK_CRITICAL, "%s", c->why);
}

static void check_live(Check *c)
{
    if (c->status == NULL)
        no_status(c, "live");
    else
        result(c, "live", CHECK_OK, "pid %lld answers", (long long)doc_i64(c->status, "pid", 0));
}

static void check_ready(Check *c)
{
    size_t i;
    json_t *reason;

    if (c->status == NULL) {
        no_status(c, "ready");
        return;
    }
    if (node_state(c->status) == NODE_OK) {
        result(c, "ready", CHECK_OK, "serves clients");
        return;
    }
    json_array_foreach(json_object_get(c->status, "degraded"), i, reason)
        result(c, "ready", json_is_true(json_object_get(c->status, "ready")) ? CHECK_WARNING : CHECK_CRITICAL, "%s",
               json_string_value(reason));
    if (i == 0)
        result(c, "ready", CHECK_CRITICAL, "state: %s", doc_text(c->status, "state", "?"));
}

static void check_disk(Check *c)
{
    const json_t *disk = json_object_get(c->status, "disk");
    int64_t available = doc_i64(disk, "free_bytes", -1), reserve = doc_i64(disk, "reserve_bytes", 0);
    char have[32], need[32];

    if (available < 0) {
        result(c, "disk", CHECK_UNKNOWN, "%s", c->why != NULL ? c->why : "the node says nothing about its disk");
        return;
    }
    format_size(available, have, sizeof have);
    format_size(reserve, need, sizeof need);
    if (node_counter(c->status, "broker", "disk_low") != 0 || available < reserve)
        result(c, "disk", CHECK_CRITICAL, "%s free, below disk.reserve (%s): produce is refused", have, need);
    else if (available < 2 * reserve)
        result(c, "disk", CHECK_WARNING, "%s free, near disk.reserve (%s)", have, need);
    else
        result(c, "disk", CHECK_OK, "%s free", have);
}

typedef struct LagLimits { /* critical at so much, warning at half of it */
    int64_t records, ms; /* ms 0: any */
} LagLimits;

static int status_of_lag(const json_t *row, const LagLimits *max)
{
    int64_t lag = doc_i64(row, "lag", 0), ms = doc_i64(row, "lag_ms", 0);

    if (lag >= max->records || (max->ms > 0 && ms >= max->ms))
        return CHECK_CRITICAL;
    return lag >= (max->records + 1) / 2 || (max->ms > 0 && ms >= (max->ms + 1) / 2) ? CHECK_WARNING : CHECK_OK;
}

static void lag_of_group(Check *c, const GroupName *g, const LagLimits *max)
{
    char lag_time[64];
    json_t *row;

    if (group_summary(c->m, g, &row) != 0) {
        result(c, "lag", CHECK_UNKNOWN, "group %s does not answer", g->name);
        return;
    }
    format_duration_ms(doc_i64(row, "lag_ms", 0), lag_time, sizeof lag_time);
    result(c, "lag", status_of_lag(row, max), "group %s is %lld records, %s behind", g->name, (long long)doc_i64(row, "lag", 0),
           lag_time);
    json_decref(row);
}

static int check_lag(Check *c)
{
    Mq *m = c->m;
    LagLimits max = {.records = 100000};
    const char *only = opt(m, "group");
    GroupName *names;
    size_t n, seen = 0;
    int r = opt_count(m, "max-lag", 1, &max.records);

    r = r ? r : opt_duration(m, "max-lag-time", 1000, &max.ms);
    if (r != 0)
        return r;
    if (group_names(m, &names, &n) != 0) {
        result(c, "lag", CHECK_UNKNOWN, "groups do not answer");
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        if (only == NULL || strcmp(names[i].name, only) == 0) {
            seen++;
            lag_of_group(c, &names[i], &max);
        }
    if (seen == 0 && only != NULL)
        result(c, "lag", CHECK_UNKNOWN, "there is no group %s", only);
    else if (seen == 0)
        result(c, "lag", CHECK_OK, "no groups");
    return 0;
}

static int check_these(Check *c, const char *what)
{
    bool all = strcmp(what, "all") == 0, known = all;
    int r = 0;

    if (all || strcmp(what, "live") == 0)
        known = true, check_live(c);
    if (all || strcmp(what, "ready") == 0)
        known = true, check_ready(c);
    if (all || strcmp(what, "disk") == 0)
        known = true, check_disk(c);
    if ((all && c->status != NULL && c->worst != CHECK_CRITICAL) || strcmp(what, "lag") == 0)
        known = true, r = check_lag(c);
    return known ? r : mq_fail(c->m, CHECK_UNKNOWN, "check %s: live, ready, disk, lag or all", what);
}

int check_run(Mq *m)
{
    static const Column columns[] = {{"CHECK", "check", COL_TEXT, false}, {"STATUS", "status", COL_TEXT, false},
                                     {"MESSAGE", "message", COL_TEXT, false}, {"LOOK", "look", COL_TEXT, false},
                                     {NULL, NULL, COL_TEXT, false}};
    Check c = {.m = m, .results = json_array()};
    json_t *doc;
    int r = target_need_node(m);

    if (r == 0)
        c.reached = node_status(m, &m->target, STATUS_TIMEOUT_MS, &c.status, &c.why);
    if (c.reached != 0) {
        json_decref(c.status);
        c.status = NULL;
    }
    if (r != 0)
        r = CHECK_UNKNOWN;
    r = r ? r : check_these(&c, m->args[0]);
    json_decref(c.status);
    if (r != 0) {
        json_decref(c.results);
        return CHECK_UNKNOWN;
    }
    doc = json_object();
    doc_set(doc, "status", json_string(check_names[c.worst]));
    doc_set(doc, "checks", c.results);
    r = output_rows(m, doc, "checks", columns);
    return r ? CHECK_UNKNOWN : c.worst;
}
