/*
 * mqctl supervisor: the daemons of a node. With systemd and as root, starting and stopping an instance goes through
 * systemctl, so that systemd's idea of the unit and ours never differ; --direct is for the unit's own ExecReload/ExecStop.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "mqctl/node.h"
#include "mqctl/output.h"

#define VERB_TIMEOUT_MS  110000
#define LOG_LINES        50
#define LOG_TAIL_MAX     (8u << 20)

/* ---- status -------------------------------------------------------------------------------------------------------- */

static const Column process_columns[] = {{"PROCESS", "role", COL_TEXT, false},       {"PID", "pid", COL_COUNT, false},
                                         {"STATE", "state", COL_TEXT, false},        {"UP", "uptime_ms", COL_MS, false},
                                         {"HEARTBEAT", "heartbeat_age_ms", COL_MS_AGO, false},
                                         {"RESTARTS", "restarts", COL_COUNT, false}, {"STATUS", "text", COL_TEXT, false},
                                         {NULL, NULL, COL_TEXT, false}};

static void print_processes(Mq *m, json_t *doc)
{
    size_t i;
    json_t *p, *reason;

    printf("%s pid %lld   %s   config %s   previous stop %s\n", m->target.name, (long long)doc_i64(doc, "pid", 0),
           doc_text(doc, "state", "?"), doc_text(json_object_get(doc, "config"), "digest", "?"),
           doc_text(doc, "previous_stop", "?"));
    json_array_foreach(json_object_get(doc, "processes"), i, p) {
        const char *failure = doc_text(p, "failure", ""), *text = doc_text(p, "status", "");
        const json_t *last = json_object_get(p, "last_exit");
        const char *how = doc_text(last, "how", "");

        doc_set_text(p, "text", failure[0] != '\0' ? mq_printf(m, "%s: %s %s", failure, how, doc_text(last, "why", ""))
                                : text[0] != '\0'  ? text
                                : how[0] != '\0'   ? mq_printf(m, "last exit: %s", how)
                                                   : "");
    }
    output_table(m, json_object_get(doc, "processes"), process_columns);
    json_array_foreach(json_object_get(doc, "degraded"), i, reason)
        printf("! %s\n", json_string_value(reason));
}

int supervisor_status_run(Mq *m)
{
    json_t *status, *counters;
    char *why;
    int r = target_need_node(m);

    if (r != 0)
        return r;
    r = node_status(m, &m->target, m->timeout_ms, &status, &why);
    if (r != 0) {
        json_decref(status);
        mq_fail(m, r, "%s", why);
        mq_hint(m, "%s", node_mend_command(m, r));
        return r;
    }
    if (json_object_get(status, "counters") == NULL && (counters = counters_read(m, &m->target)) != NULL)
        doc_set(status, "counters", counters);
    return output_detail(m, status, json_object_get(status, "processes"), process_columns, print_processes);
}

/* ---- verbs --------------------------------------------------------------------------------------------------------- */

int run_program(Mq *m, const char *const *argv)
{
    pid_t pid;
    int status, e = posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)(uintptr_t)argv, environ);

    if (e != 0)
        return mq_fail_errno(m, -e, "%s", argv[0]);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return mq_fail_errno(m, -errno, "%s", argv[0]);
    return WIFEXITED(status) ? WEXITSTATUS(status) : MQ_E_FAILED;
}

bool under_systemd(const Target *t)
{
    return t->kind == TARGET_INSTANCE && geteuid() == 0 && access("/run/systemd/system", F_OK) == 0;
}

static int through_systemctl(Mq *m, const char *verb)
{
    const char *unit = mq_printf(m, "leat@%s.service", m->target.instance);
    const char *argv[] = {"systemctl", verb, unit, NULL};
    int r = run_program(m, argv);

    if (r == 0)
        return MQ_OK;
    mq_fail(m, MQ_E_FAILED, "systemctl %s %s failed", verb, unit);
    mq_hint(m, "journalctl -u %s -n 30", unit);
    return MQ_E_FAILED;
}

static void print_answer(Mq *m, json_t *doc)
{
    static const char *const lists[] = {"applied", "waits", "processes", "warnings"};
    size_t i;
    json_t *x;
    bool any = false;

    for (size_t l = 0; l < ARRAY_SIZE(lists); l++)
        json_array_foreach(json_object_get(doc, lists[l]), i, x) {
            if (json_is_true(json_object_get(x, "ok")) && doc_text(x, "text", "")[0] == '\0')
                continue; /* a process that has nothing to say */
            any = true;
            if (json_is_string(x))
                printf("%s: %s\n", lists[l], json_string_value(x));
            else if (doc_text(x, "key", NULL) != NULL)
                printf("%s: %s  %s -> %s%s%s\n", lists[l], doc_text(x, "key", ""), doc_text(x, "old", ""), doc_text(x, "new", ""),
                       doc_text(x, "for", NULL) ? "  waits for a " : "", doc_text(x, "for", ""));
            else
                printf("%s: %s %s\n", lists[l], doc_text(x, "role", ""), doc_text(x, "text", ""));
        }
    if (!any && strcmp(m->command->verb, "reload") == 0)
        printf("nothing has changed\n");
}

static int answer(Mq *m, const char *verb, const char *role, json_t *body)
{
    json_t *doc = json_is_object(body) ? json_incref(body) : json_object();

    doc_set_text(doc, "node", m->target.name);
    doc_set_text(doc, "verb", verb);
    doc_set_text(doc, "role", role);
    return output_doc(m, doc, print_answer);
}

static int check_role(Mq *m, const char *role)
{
    static const char *const roles[] = {"controller", "broker", "consumer-coord"};

    for (size_t i = 0; role != NULL && i < ARRAY_SIZE(roles); i++)
        if (strcmp(role, roles[i]) == 0)
            return 0;
    return role == NULL ? 0 : mq_fail(m, MQ_E_USAGE, "there is no daemon '%s': broker, controller or consumer-coord", role);
}

/* The whole node, not one daemon. */
static int node_verb(Mq *m, const char *verb, json_t **ret_body)
{
    const Target *t = &m->target;
    bool systemd = under_systemd(t) && !opt_has(m, "direct");
    int r;

    if (systemd && (strcmp(verb, "start") == 0 || strcmp(verb, "stop") == 0 || strcmp(verb, "restart") == 0 ||
                    strcmp(verb, "reload") == 0))
        return through_systemctl(m, verb);
    if (t->kind == TARGET_SANDBOX && strcmp(verb, "start") == 0) {
        const char *dir = mq_printf(m, "%.*s", (int)(strrchr(t->node_dir, '/') - t->node_dir), t->node_dir);
        json_t *status = NULL; /* for those who ask for it: `supervisor status` */

        r = sandbox_start_node(m, dir, atoi(t->instance), 0, &status);
        json_decref(status);
        return r;
    }
    if (strcmp(verb, "start") == 0) {
        r = mq_fail(m, MQ_E_FAILED, "%s is started by systemd", t->name);
        mq_hint(m, "systemctl start leat@%s   (as root)", t->instance);
        return r;
    }
    if (strcmp(verb, "stop") == 0)
        return sandbox_stop_node(m, t, opt_has(m, "drain"));
    return control_call(m, t, verb, NULL, 0, wait_timeout(m, VERB_TIMEOUT_MS), ret_body);
}

int supervisor_verb_run(Mq *m)
{
    const char *verb = m->command->verb, *role = m->n_args > 0 ? m->args[0] : NULL;
    json_t *body = NULL;
    int r = target_need_node(m);

    r = r ? r : check_role(m, role);
    if (r == 0 && m->dry_run) {
        mq_note(m, "would %s %s%s%s", verb, role ? role : "", role ? " of " : "", m->target.name);
        return MQ_E_REFUSED;
    }
    if (r == 0)
        r = role != NULL ? control_call(m, &m->target, verb, &role, 1,
                                        opt_has(m, "no-wait") ? 1000 : wait_timeout(m, VERB_TIMEOUT_MS), &body)
                         : node_verb(m, verb, &body);
    if (r == MQ_E_TIMEOUT && opt_has(m, "no-wait"))
        r = MQ_OK;
    if (r == 0)
        r = answer(m, verb, role, body);
    json_decref(body);
    return r;
}

/* ---- clock --------------------------------------------------------------------------------------------------------- */

static void print_accepted(Mq *m, json_t *doc)
{
    size_t n = json_array_size(json_object_get(doc, "distrusted_by"));

    printf("%s: the clock %s\n", m->target.name, n > 0 ? "is believed from now on" : "was believed already");
}

int supervisor_accept_clock_run(Mq *m)
{
    time_t now = (time_t)(clock_wall_ms() / 1000);
    char text[32] = "?";
    struct tm tm;
    json_t *body = NULL;
    int r = target_need_node(m);

    if (r == 0 && m->dry_run)
        return MQ_E_REFUSED;
    if (gmtime_r(&now, &tm) != NULL)
        (void)strftime(text, sizeof(text), "%F %T UTC", &tm);
    r = r ? r : mq_confirm(m, "%s: it is %s? Records and offsets that are older than their retention by then will be deleted.",
                           m->target.name, text);
    r = r ? r : control_call(m, &m->target, "accept-clock", NULL, 0, wait_timeout(m, VERB_TIMEOUT_MS), &body);
    if (r == 0)
        r = output_doc(m, json_incref(body), print_accepted);
    json_decref(body);
    return r;
}

/* ---- logs ---------------------------------------------------------------------------------------------------------- */

/* Start of the last n lines of the text. */
static const char *last_lines(const char *data, size_t size, int64_t n)
{
    const char *p = data + size;

    if (p > data && p[-1] == '\n')
        p--;
    while (p > data) {
        if (p[-1] == '\n' && --n <= 0)
            break;
        p--;
    }
    return p;
}

static int read_tail(Mq *m, const char *path, Buf *out, off_t *ret_end)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t size, from;
    ssize_t n;

    if (fd < 0)
        return mq_fail_errno(m, -errno, "%s", path);
    size = lseek(fd, 0, SEEK_END);
    from = MAX(size - (off_t)LOG_TAIL_MAX, 0);
    if (buf_reserve(out, (size_t)(size - from) + 1) == 0) {
        n = pread(fd, out->data, (size_t)(size - from), from);
        out->size = n > 0 ? (size_t)n : 0;
    }
    *ret_end = from + (off_t)out->size;
    close(fd);
    return 0;
}

static void put_line(Mq *m, const char *line, size_t size, const char *role, json_t *list)
{
    json_t *doc = json_loadb(line, size, 0, NULL);

    if (role != NULL && strcmp(doc_text(doc, "LEAT_ROLE", ""), role) != 0) {
        json_decref(doc);
        return;
    }
    if (list != NULL) {
        json_array_append_new(list, doc != NULL ? doc : doc_bytes(line, size));
        return;
    }
    if (doc == NULL || m->verbose)
        printf("%.*s\n", (int)size, line);
    else
        printf("%s %-14s %s\n", doc_text(doc, "TIME", "-"), doc_text(doc, "LEAT_ROLE", "-"), doc_text(doc, "MESSAGE", ""));
    json_decref(doc);
}

static void put_lines(Mq *m, const char *p, const char *end, const char *role, json_t *list)
{
    while (p < end) {
        const char *newline = memchr(p, '\n', (size_t)(end - p)), *stop = newline != NULL ? newline : end;

        if (stop > p)
            put_line(m, p, (size_t)(stop - p), role, list);
        p = stop + 1;
    }
}

static int follow(Mq *m, const char *path, off_t at, const char *role)
{
    mq_catch_signals();
    while (!mq_interrupted) {
        _cleanup_(buf_deinit) Buf tail = BUF_NULL;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        off_t end = fd >= 0 ? lseek(fd, 0, SEEK_END) : at;

        if (end < at)
            at = 0; /* rotated */
        if (end > at && buf_reserve(&tail, (size_t)(end - at)) == 0) {
            ssize_t n = pread(fd, tail.data, (size_t)(end - at), at);
            const uint8_t *last = n > 0 ? memrchr(tail.data, '\n', (size_t)n) : NULL;

            if (last != NULL) {
                put_lines(m, (char *)tail.data, (const char *)last + 1, role, NULL);
                at += last + 1 - tail.data;
                fflush(stdout);
            }
        }
        if (fd >= 0)
            close(fd);
        poll(NULL, 0, 200);
    }
    return MQ_E_INTERRUPTED;
}

static int journal(Mq *m, int64_t lines, const char *role)
{
    const char *argv[12];
    int n = 0;

    argv[n++] = "journalctl";
    argv[n++] = "--no-pager";
    argv[n++] = "-u";
    argv[n++] = mq_printf(m, "leat@%s.service", m->target.instance);
    argv[n++] = "-n";
    argv[n++] = mq_printf(m, "%lld", (long long)lines);
    argv[n++] = "-o";
    argv[n++] = output_is_text(m) ? "short-iso" : "json";
    if (opt_has(m, "follow"))
        argv[n++] = "-f";
    if (role != NULL)
        argv[n++] = mq_printf(m, "LEAT_ROLE=%s", role);
    argv[n] = NULL;
    return run_program(m, argv);
}

int supervisor_logs_run(Mq *m)
{
    const char *role = m->n_args > 0 ? m->args[0] : NULL, *path, *from;
    _cleanup_(buf_deinit) Buf tail = BUF_NULL;
    json_t *list = NULL, *doc;
    int64_t lines = LOG_LINES;
    off_t end = 0;
    int r = target_need_node(m);

    r = r ? r : opt_i64(m, "lines", 0, 1000000, &lines);
    if (r == 0 && role != NULL && strcmp(role, "supervisor") != 0)
        r = check_role(m, role);
    if (r != 0)
        return r;
    if (m->target.kind == TARGET_INSTANCE)
        return journal(m, lines, role);
    path = mq_printf(m, "%s/leat.log", m->target.log_dir);
    r = read_tail(m, path, &tail, &end);
    if (r != 0)
        return r;
    list = output_is_text(m) ? NULL : json_array();
    from = last_lines((char *)tail.data, tail.size, MAX(lines, 1));
    if (lines > 0)
        put_lines(m, from, (char *)tail.data + tail.size, role, list);
    if (list != NULL) {
        doc = json_object();
        doc_set(doc, "lines", list);
        return output_doc(m, doc, NULL);
    }
    return opt_has(m, "follow") ? follow(m, path, end, role) : MQ_OK;
}
