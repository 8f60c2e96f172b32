/* See reload.h. First everything is read, checked and compared; what is wrong by then has changed nothing. */

#include "supervisor/reload.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "supervisor/answer.h"
#include "supervisor/config.h"
#include "supervisor/events.h"
#include "supervisor/notify.h"
#include "supervisor/waits.h"

static json_t *change_json(const ConfigChange *change)
{
    json_t *o = json_object();
    const char *fallback = change->key->fallback == NULL ? "" : change->key->fallback;

    (void)json_object_set_new(o, "key", json_string(change->key->name));
    (void)json_object_set_new(
        o, "old", json_string(change->old_value == NULL ? fallback : change->old_value));
    (void)json_object_set_new(
        o, "new", json_string(change->new_value == NULL ? fallback : change->new_value));
    return o;
}

/* Sorts the changes into applied and waits. Return: the body, or NULL with `fixed` = a key that may not change. */
static json_t *sort_changes(const ConfigChange *changes, size_t n, const ConfigKey **ret_fixed)
{
    static const char *const waits_for[] = {[CONFIG_LIVE] = "",
                                            [CONFIG_PROCESS] = "restart of the processes",
                                            [CONFIG_NODE] = "restart of the node",
                                            [CONFIG_FIXED] = ""};
    json_t *body = json_object(), *applied = json_array(), *waits = json_array();

    *ret_fixed = NULL;
    for (size_t i = 0; i < n; i++) {
        json_t *o = change_json(&changes[i]);
        ConfigEffect effect = changes[i].key->effect;

        if (effect == CONFIG_FIXED)
            *ret_fixed = changes[i].key;
        if (effect == CONFIG_PROCESS || effect == CONFIG_NODE)
            (void)json_object_set_new(o, "for", json_string(waits_for[effect]));
        (void)json_array_append_new(effect == CONFIG_LIVE ? applied : waits, o);
    }
    (void)json_object_set_new(body, "schema", json_string("leat.supervisor.reload/1"));
    (void)json_object_set_new(body, "applied", applied);
    (void)json_object_set_new(body, "waits", waits);
    return body;
}

static void reject(Node *n, ControlCall *call, const char *why)
{
    jlog_write(LOG_ERR, MESSAGE_CONFIG_REJECTED, 0, NULL, 0, "reload rejected, nothing changed: %s",
               why);
    notify_reloaded(n);
    answer_refuse(call, ANSWER_CONFIG, "%s", why);
}

static void apply_own_keys(const Conf *conf)
{
    static const char *const names[] = {"err", "warning", "notice", "info", "debug"};
    const char *level = config_text(conf, "log.level");

    for (int i = 0; i < (int)ARRAY_SIZE(names); i++)
        if (level != NULL && strcmp(level, names[i]) == 0)
            jlog_set_level(LOG_ERR + i);
}

/* The new configuration is valid and differs as `body` says: keep and send what can be applied. */
static void take_config(Node *n, Conf *fresh, json_t *body, ControlCall *call, int64_t timeout_ns)
{
    _cleanup_(conf_deinit) Conf applicable = {0};
    int r = node_config_applicable(&n->conf, fresh, &applicable);
    Wait *w;

    if (r == 0)
        r = node_send_reload(n, &applicable);
    if (r < 0) {
        json_decref(body);
        reject(n, call, strerror(-r));
        return;
    }
    conf_deinit(&n->pending);
    n->pending = *fresh;
    *fresh = (Conf){0};
    apply_own_keys(&n->conf);
    (void)json_object_set_new(body, "digest", json_string(n->digest));
    w = waits_add(n, call, WAIT_RELOADED, ROW_COUNT, timeout_ns);
    if (w == NULL)
        json_decref(body);
    else
        w->body = body;
    waits_look(n);
}

static json_t *lines_json(const Buf *text)
{
    json_t *list = json_array();

    for (size_t at = 0, end; at < text->size; at = end + 1) {
        const uint8_t *newline = memchr(text->data + at, '\n', text->size - at);

        end = newline == NULL ? text->size : (size_t)(newline - text->data);
        (void)json_array_append_new(list,
                                    json_stringn_nocheck((const char *)text->data + at, end - at));
    }
    return list;
}

void reload_begin(Node *n, ControlCall *call, int64_t timeout_ns)
{
    _cleanup_(conf_deinit) Conf fresh = {0};
    _cleanup_(buf_deinit) Buf messages = BUF_NULL;
    _cleanup_(base_freep) ConfigChange *changes = NULL;
    const ConfigKey *fixed;
    size_t n_changes = 0;
    json_t *body;
    int r;

    notify_reloading();
    r = node_config_load(n->options, &fresh, &messages);
    if (r == 0)
        r = node_config_diff(&n->conf, &fresh, &changes, &n_changes);
    if (r < 0) {
        reject(n, call, messages.size > 0 ? (const char *)messages.data : strerror(-r));
        return;
    }
    body = sort_changes(changes, n_changes, &fixed);
    if (fixed != NULL) {
        char why[256];

        (void)snprintf(why, sizeof(why), "%s cannot change once the node has data", fixed->name);
        json_decref(body);
        reject(n, call, why);
        return;
    }
    (void)json_object_set_new(body, "warnings", lines_json(&messages));
    take_config(n, &fresh, body, call, timeout_ns);
}

bool reload_is_under_way(Node *n)
{
    node_for_each(c, n)
    {
        if (c->reload.state == ASK_SENT &&
            c->pid > 0) /* one that died reads the new one at its start */
            return true;
    }
    return false;
}

static json_t *process_json(const NodeChild *c)
{
    json_t *o = json_object();

    (void)json_object_set_new(o, "role", json_string(child_role_name(c->role)));
    (void)json_object_set_new(
        o, "ok", json_boolean(c->reload.state != ASK_REFUSED && c->reload.state != ASK_SENT));
    (void)json_object_set_new(o, "text", json_string(c->reload.text));
    return o;
}

void reload_answer(Node *n, ControlCall *call, json_t *take_body)
{
    json_t *processes = json_array();
    int code = reload_is_under_way(n) ? ANSWER_TIMED_OUT : 0;

    node_for_each(c, n)
    {
        (void)json_array_append_new(processes, process_json(c));
        if (c->reload.state == ASK_REFUSED)
            code = ANSWER_FAILED;
    }
    (void)json_object_set_new(take_body, "processes", processes);
    jlog_write(code == 0 ? LOG_NOTICE : LOG_WARNING, MESSAGE_RELOADED, 0, NULL, 0,
               "configuration %s: %zu keys applied, %zu wait for a restart", n->digest,
               json_array_size(json_object_get(take_body, "applied")),
               json_array_size(json_object_get(take_body, "waits")));
    notify_reloaded(n);
    answer_json(call, code,
                code == 0 ? NULL
                : code == ANSWER_TIMED_OUT
                    ? "not all processes have answered yet"
                    : "a process refused the configuration; it keeps the old one until its restart",
                take_body);
}
