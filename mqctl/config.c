/*
 * mqctl config. check reads files and needs no node. show and explain ask a running node for what it really uses (--set
 * and the environment included); of a stopped one they read the files.
 */

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/conf.h"
#include "base/text.h"
#include "meta/config_keys.h"
#include "mqctl/connect.h"
#include "mqctl/output.h"
#include "mqctl/topics.h"

#define API_DESCRIBE_CONFIGS 32
#define RESOURCE_TOPIC       2
#define RESOURCE_BROKER      4

static const char *const effect_names[] = {
    [CONFIG_LIVE] = "live",
    [CONFIG_PROCESS] = "after a restart of the daemon",
    [CONFIG_NODE] = "after a restart of the node",
    [CONFIG_FIXED] = "never: fixed when the node is made",
};

static const char *const effect_words[] = {[CONFIG_LIVE] = "live", [CONFIG_PROCESS] = "process", [CONFIG_NODE] = "node", [CONFIG_FIXED] = "fixed"};

static const char *type_name(ConfigType t)
{
    static const char *const names[] = {NULL, "boolean", "string", "int", "short", "long", "double", "list", "class", "password"};
    return (unsigned)t < ARRAY_SIZE(names) && names[t] != NULL ? names[t] : "?";
}

static const char *unit_name(ConfigUnit u)
{
    static const char *const names[] = {"", "bytes", "ms", "minutes", "hours", "percent or bytes"};
    return (unsigned)u < ARRAY_SIZE(names) ? names[u] : "";
}

/* ---- files --------------------------------------------------------------------------------------------------------- */

static int load_files(Mq *m, const char *path, Conf *ret)
{
    ConfError error = {""};
    int r = conf_parse_tree(ret, path, &error);

    if (r == 0)
        return 0;
    if (error.text[0] != '\0')
        return mq_fail(m, MQ_E_CONFIG, "%s", error.text);
    return mq_fail_errno(m, r, "%s", path);
}

/* "a:1: error: text" lines into rows. */
static json_t *message_rows(const Buf *text)
{
    json_t *rows = json_array();
    const char *p = (const char *)text->data, *end = p + text->size;

    while (p != NULL && p < end) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        size_t n = stop != NULL ? (size_t)(stop - p) : (size_t)(end - p);
        json_t *row = json_object();

        doc_set(row, "severity", json_string(memmem(p, n, " error: ", 8) != NULL ? "error" : "warning"));
        doc_set(row, "message", doc_bytes(p, n));
        json_array_append_new(rows, row);
        p += n + 1;
    }
    return rows;
}

int config_check_run(Mq *m)
{
    _cleanup_(conf_deinit) Conf conf = {0};
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    const char *path = m->n_args > 0 ? m->args[0] : NULL;
    json_t *doc;
    int r, errors;

    if (path == NULL) {
        r = target_need_node(m);
        if (r != 0)
            return r;
        path = m->target.conf_path;
    }
    r = load_files(m, path, &conf);
    if (r != 0)
        return r;
    errors = config_check(&conf, &text);
    if (output_is_text(m)) {
        fprintf(errors > 0 ? stderr : stdout, "%.*s", (int)text.size, text.data != NULL ? (const char *)text.data : "");
        if (errors == 0)
            mq_note(m, "%s: %zu settings, no errors", path, conf.n);
        return errors > 0 ? MQ_E_CONFIG : MQ_OK;
    }
    doc = json_object();
    doc_set_text(doc, "file", path);
    doc_set(doc, "settings", json_integer((json_int_t)conf.n));
    doc_set(doc, "errors", json_integer(errors));
    doc_set(doc, "messages", message_rows(&text));
    r = output_doc(m, doc, NULL);
    return r ? r : errors > 0 ? MQ_E_CONFIG : MQ_OK;
}

/* ---- values -------------------------------------------------------------------------------------------------------- */

static json_t *value_row(const ConfigKey *key, const char *value, const char *source, const char *file, int64_t line)
{
    json_t *row = json_object();

    doc_set_text(row, "key", key->name);
    doc_set_text(row, "value", key->type == CONFIG_PASSWORD && value != NULL ? "[hidden]" : value);
    doc_set_text(row, "source", source);
    doc_set_text(row, "file", file);
    doc_set(row, "line", json_integer(line));
    doc_set_text(row, "default", key->fallback);
    doc_set(row, "effect", json_string(effect_words[key->effect]));
    doc_set(row, "ignored", json_boolean((key->scope & CONFIG_SCOPE_IGNORED) != 0));
    return row;
}

static int rows_from_files(Mq *m, json_t **ret)
{
    _cleanup_(conf_deinit) Conf conf = {0};
    const ConfigKey *key;
    json_t *rows;
    int r = load_files(m, m->target.conf_path, &conf);

    if (r != 0)
        return r;
    rows = json_array();
    for (size_t i = 0; (key = config_key_at(i)) != NULL; i++) {
        const ConfEntry *e = conf_find(&conf, key->name);
        ConfigView view = {.conf = &conf};
        bool ignored = (key->scope & CONFIG_SCOPE_IGNORED) != 0;

        if (!(key->scope & CONFIG_SCOPE_BROKER) || (ignored && e == NULL))
            continue;
        json_array_append_new(rows, value_row(key, ignored ? e->value : config_view_broker(&view, key, NULL),
                                              e != NULL ? "file" : "default", e ? e->file : "", e ? e->line : 0));
    }
    *ret = rows;
    return 0;
}

/* Kafka's numbers for where a value comes from. */
static const char *source_name(int source)
{
    static const char *const names[] = {"unknown", "topic", "broker (dynamic)", "cluster (dynamic)", "file", "default"};
    return source >= 0 && source < (int)ARRAY_SIZE(names) ? names[source] : "unknown";
}

static int rows_from_broker(Mq *m, int8_t type, const char *name, json_t **ret)
{
    KDescribeConfigsRequestResources resource = {.resource_type = type, .resource_name = k_str(name)};
    KDescribeConfigsRequest request;
    KDescribeConfigsResponse response;
    const KDescribeConfigsResponseResults *x;
    json_t *rows;
    int r;

    k_message_init(&k_describe_configs_request, &request);
    resource.configuration_keys.n = -1;
    request.resources.items = &resource;
    request.resources.n = 1;
    request.include_synonyms = true;
    r = api_call(m, API_DESCRIBE_CONFIGS, 4, &request, &response);
    if (r != 0)
        return r;
    if (response.results.n != 1)
        return mq_fail(m, MQ_E_FAILED, "settings of %s: empty answer", name);
    x = &response.results.items[0];
    if (x->error_code != 0)
        return mq_fail_kafka(m, x->error_code, NULL, "settings of %s", name);
    rows = json_array();
    for (int32_t i = 0; i < x->configs.n; i++) {
        const KDescribeConfigsResponseResultsConfigs *c = &x->configs.items[i];
        json_t *row = json_object();

        doc_set(row, "key", doc_bytes(c->name.ptr, (size_t)MAX(c->name.len, 0)));
        doc_set(row, "value", c->value.len < 0 ? json_null() : doc_bytes(c->value.ptr, (size_t)c->value.len));
        doc_set(row, "source", json_string(source_name(c->config_source)));
        json_array_append_new(rows, row);
    }
    *ret = rows;
    return 0;
}

/* The node's effective values, from whoever can tell. */
static int node_rows(Mq *m, json_t **ret)
{
    json_t *body = NULL;
    char *why;
    int r = target_resolve(m);

    if (r != 0)
        return r;
    if (m->target.kind == TARGET_ADDRESS) {
        KMetadataResponse meta;
        r = topics_metadata(m, NULL, 0, &meta);
        if (r != 0)
            return r;
        return rows_from_broker(m, RESOURCE_BROKER, mq_printf(m, "%d", meta.brokers.n > 0 ? meta.brokers.items[0].node_id : 1), ret);
    }
    if (control_try(m, &m->target, "config", NULL, 0, 3000, &body, &why) == 0 && json_is_array(json_object_get(body, "values"))) {
        *ret = json_incref(json_object_get(body, "values"));
        json_decref(body);
        return 0;
    }
    json_decref(body);
    return rows_from_files(m, ret);
}

/* ---- show ---------------------------------------------------------------------------------------------------------- */

static bool row_is_wanted(const Mq *m, const json_t *row)
{
    const char *key = doc_text(row, "key", "");

    for (int i = 0; i < m->n_args; i++)
        if (fnmatch(m->args[i], key, 0) == 0)
            return true;
    return m->n_args == 0 && (opt_has(m, "all") || strcmp(doc_text(row, "source", ""), "default") != 0);
}

static void add_place(Mq *m, json_t *row)
{
    const char *file = doc_text(row, "file", "");

    if (file[0] != '\0' && doc_i64(row, "line", 0) > 0)
        doc_set_text(row, "where", mq_printf(m, "%s:%lld", file, (long long)doc_i64(row, "line", 0)));
    else
        doc_set_text(row, "where", doc_text(row, "source", ""));
}

int config_show_run(Mq *m)
{
    static const Column columns[] = {{"KEY", "key", COL_TEXT, false}, {"VALUE", "value", COL_TEXT, false},
                                     {"FROM", "where", COL_TEXT, false}, {"DEFAULT", "default", COL_TEXT, true},
                                     {"CHANGE", "effect", COL_TEXT, true}, {NULL, NULL, COL_TEXT, false}};
    const char *topic = opt(m, "topic");
    json_t *rows = NULL, *doc, *list, *row;
    size_t i;
    int r = topic != NULL ? rows_from_broker(m, RESOURCE_TOPIC, topic, &rows) : node_rows(m, &rows);

    if (r != 0)
        return r;
    doc = json_object();
    list = json_array();
    doc_set_text(doc, topic ? "topic" : "node", topic ? topic : m->target.name);
    doc_set(doc, "settings", list);
    json_array_foreach(rows, i, row)
        if (row_is_wanted(m, row)) {
            add_place(m, row);
            json_array_append(list, row);
        }
    json_decref(rows);
    r = output_rows(m, doc, "settings", columns);
    if (!opt_has(m, "all") && m->n_args == 0)
        mq_note(m, "defaults are left out; -a shows them");
    return r;
}

/* ---- explain ------------------------------------------------------------------------------------------------------- */

static const ConfigKey *find_key(Mq *m, const char *name, int *ret_status)
{
    const ConfigKey *key = config_key(name), *k;
    const char *names[1024], *near;
    size_t n = 0;

    if (key != NULL)
        return key;
    for (size_t i = 0; (k = config_key_at(i)) != NULL && n < ARRAY_SIZE(names); i++)
        names[n++] = k->name;
    near = text_suggest(name, names, n);
    *ret_status = mq_fail(m, MQ_E_NOT_FOUND, "there is no key '%s'%s%s%s", name, near ? " (did you mean " : "", near ? near : "",
                          near ? "?)" : "");
    return NULL;
}

static json_t *find_row(const json_t *rows, const char *name)
{
    json_t *row;
    size_t i;

    json_array_foreach(rows, i, row)
        if (strcmp(doc_text(row, "key", ""), name) == 0)
            return row;
    return NULL;
}

static void print_explain(Mq *m, json_t *doc)
{
    const char *fallback = doc_text(doc, "default", NULL), *unit = doc_text(doc, "unit", ""), *value = doc_text(doc, "value", NULL);

    (void)m;
    printf("%s = %s", doc_text(doc, "key", ""), value != NULL ? value : "(unset)");
    printf("   from %s", doc_text(doc, "where", doc_text(doc, "source", "?")));
    printf("   default %s\n", fallback != NULL ? fallback : "(unset)");
    printf("%s%s%s%s%s", doc_text(doc, "type", ""), unit[0] ? ", in " : "", unit, doc_text(doc, "choices", NULL) ? ", one of " : "",
           doc_text(doc, "choices", ""));
    if (json_is_integer(json_object_get(doc, "min")))
        printf(", %lld to %lld", (long long)doc_i64(doc, "min", 0), (long long)doc_i64(doc, "max", 0));
    printf("   change: %s\n", doc_text(doc, "takes_effect", ""));
    if (doc_text(doc, "broker_key", NULL) != NULL)
        printf("topics without a value of their own use %s\n", doc_text(doc, "broker_key", ""));
    printf("%s\n", doc_text(doc, "doc", ""));
}

static json_t *key_doc(const ConfigKey *key)
{
    json_t *doc = json_object();

    doc_set_text(doc, "key", key->name);
    doc_set(doc, "type", json_string(type_name(key->type)));
    doc_set(doc, "unit", json_string(unit_name(key->unit)));
    doc_set_text(doc, "default", key->fallback);
    doc_set_text(doc, "choices", key->choices);
    if (key->min < key->max && (key->type == CONFIG_INT || key->type == CONFIG_LONG || key->type == CONFIG_SHORT)) {
        doc_set(doc, "min", json_integer(key->min));
        doc_set(doc, "max", json_integer(key->max));
    }
    doc_set(doc, "topic_key", json_boolean((key->scope & CONFIG_SCOPE_TOPIC) != 0));
    doc_set_text(doc, "broker_key", key->scope & CONFIG_SCOPE_TOPIC ? key->broker_key : NULL);
    doc_set(doc, "ignored", json_boolean((key->scope & CONFIG_SCOPE_IGNORED) != 0));
    doc_set_text(doc, "takes_effect", key->scope & CONFIG_SCOPE_IGNORED ? "never: ignored" : effect_names[key->effect]);
    doc_set_text(doc, "doc", key->doc);
    return doc;
}

int config_explain_run(Mq *m)
{
    const char *topic = opt(m, "topic"), *name;
    json_t *rows = NULL, *doc, *row;
    const ConfigKey *key;
    int r = 0;

    key = find_key(m, m->args[0], &r);
    if (key == NULL)
        return r;
    name = key->name;
    if (topic == NULL && !(key->scope & CONFIG_SCOPE_BROKER) && key->broker_key != NULL)
        name = key->broker_key; /* what topics get */
    r = topic != NULL ? rows_from_broker(m, RESOURCE_TOPIC, topic, &rows) : node_rows(m, &rows);
    if (r == MQ_E_NOT_FOUND || r == MQ_E_UNREACHABLE)
        mq_note(m, "no node to ask: the default is shown");
    else if (r != 0)
        return r;
    doc = key_doc(key);
    row = find_row(rows, topic != NULL ? key->name : name);
    if (row != NULL) {
        add_place(m, row);
        doc_set(doc, "value", json_incref(json_object_get(row, "value")));
        doc_set(doc, "source", json_incref(json_object_get(row, "source")));
        doc_set(doc, "where", json_incref(json_object_get(row, "where")));
    } else {
        doc_set_text(doc, "value", key->fallback);
        doc_set(doc, "source", json_string("default"));
        doc_set(doc, "where", json_string("default"));
    }
    json_decref(rows);
    return output_doc(m, doc, print_explain);
}
