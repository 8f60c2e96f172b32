/* mqctl instance: installed nodes. An instance is /etc/leat/I/leat.conf; systemd's leat@I.service makes the rest. */

#include <dirent.h>
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/conf.h"
#include "base/fs.h"
#include "base/text.h"
#include "meta/config_keys.h"
#include "mqctl/node.h"
#include "mqctl/output.h"

#define ETC_LEAT      "/etc/leat"
#define PORT_FIRST    9092
#define PORT_STEP     10
#define INSTANCES_MAX 256

/* Port of the first listener in the instance's files; 0 = cannot be read. */
static uint16_t port_of(const Target *t)
{
    _cleanup_(conf_deinit) Conf conf = {0};
    MetaEndpoint e[META_ENDPOINTS_MAX];
    ConfError error;
    char why[256];

    if (conf_parse_tree(&conf, t->conf_path, &error) < 0 ||
        config_listeners(&conf, false, e, ARRAY_SIZE(e), why, sizeof why) < 1)
        return 0;
    return e[0].port;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static size_t instance_names(Mq *m, const char **ret)
{
    DIR *d = opendir(ETC_LEAT);
    size_t n = 0;

    if (d == NULL)
        return 0;
    for (struct dirent *e; (e = readdir(d)) != NULL && n < INSTANCES_MAX;)
        if (e->d_name[0] != '.' && access(mq_printf(m, ETC_LEAT "/%s/leat.conf", e->d_name), F_OK) == 0)
            ret[n++] = mq_printf(m, "%s", e->d_name);
    closedir(d);
    qsort(ret, n, sizeof *ret, by_name);
    return n;
}

int instance_list_run(Mq *m)
{
    static const Column columns[] = {{"INSTANCE", "instance", COL_TEXT, false}, {"STATE", "state", COL_TEXT, false},
                                     {"PORT", "port", COL_COUNT, false},        {"CONFIG", "config", COL_TEXT, false},
                                     {"DATA", "data_dir", COL_TEXT, true},      {NULL, NULL, COL_TEXT, false}};
    const char **names = mq_alloc(m, INSTANCES_MAX * sizeof *names);
    size_t n = instance_names(m, names);
    json_t *doc = json_object(), *rows = json_array();

    doc_set(doc, "instances", rows);
    for (size_t i = 0; i < n; i++) {
        json_t *row, *status = NULL;
        const char *state;
        char *why;
        Target t;
        int r;

        if (target_instance(m, names[i], &t) != 0)
            continue;
        r = node_status(m, &t, 1000, &status, &why);
        state = r == 0                ? doc_text(status, "state", "?")
                : r == MQ_E_DENIED    ? "running"
                : target_is_running(m, &t) ? "no answer"
                                           : "stopped";
        row = json_object();
        doc_set_text(row, "instance", names[i]);
        doc_set_text(row, "state", state);
        doc_set(row, "port", port_of(&t) ? json_integer(port_of(&t)) : json_null());
        doc_set_text(row, "config", t.conf_path);
        doc_set_text(row, "data_dir", t.data_dir);
        json_array_append_new(rows, row);
        json_decref(status);
    }
    return output_rows(m, doc, "instances", columns);
}

/* ---- create -------------------------------------------------------------------------------------------------------- */

static bool port_is_free(Mq *m, const char *const *names, size_t n, uint16_t port)
{
    int fd;

    for (size_t i = 0; i < n; i++) {
        Target t;
        if (target_instance(m, names[i], &t) == 0 && port_of(&t) == port)
            return false;
    }
    fd = sock_listen_tcp("127.0.0.1", port, 1, NULL);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static int choose_port(Mq *m, int64_t *inout_port)
{
    const char **names = mq_alloc(m, INSTANCES_MAX * sizeof *names);
    size_t n = instance_names(m, names);

    if (*inout_port > 0)
        return 0;
    for (int64_t port = PORT_FIRST; port < 65536; port += PORT_STEP)
        if (port_is_free(m, names, n, (uint16_t)port)) {
            *inout_port = port;
            return 0;
        }
    return mq_fail(m, MQ_E_CONFLICT, "no port from %d on is free; say one with --port", PORT_FIRST);
}

static char *conf_text(Mq *m, int64_t node_id, int64_t port, const char *log_dirs)
{
    return mq_printf(m,
                     "# Leat instance; keys and defaults are Kafka's: man 5 leat.conf, mqctl config explain KEY\n"
                     "node.id = %lld\n"
                     "listeners = PLAINTEXT://127.0.0.1:%lld\n"
                     "%s%s%s",
                     (long long)node_id, (long long)port, log_dirs ? "log.dirs = " : "", log_dirs ? log_dirs : "",
                     log_dirs ? "\n" : "");
}

/* The daemons read it; nobody else needs to. */
static int give_to_group(Mq *m, const char *path)
{
    const struct group *g = getgrnam("leat");

    if (g == NULL || geteuid() != 0)
        return 0;
    if (chown(path, 0, g->gr_gid) < 0)
        return mq_fail_errno(m, -errno, "%s", path);
    return 0;
}

static void advise_log_dirs(Mq *m, const char *name, const char *log_dirs)
{
    mq_note(m, "systemd's sandbox of leat@%s does not allow writing to %s yet. Add this drop-in:", name, log_dirs);
    printf("# /etc/systemd/system/leat@%s.service.d/log-dirs.conf\n[Unit]\nRequiresMountsFor=%s\n[Service]\nReadWritePaths=%s\n", name,
           log_dirs, log_dirs);
}

int instance_create_run(Mq *m)
{
    const char *name = m->args[0], *log_dirs = opt(m, "log-dirs"), *text, *dir;
    int64_t port = 0, node_id = 1;
    json_t *doc;
    Target t;
    int r = target_instance(m, name, &t);

    r = r ? r : opt_i64(m, "port", 1, 65535, &port);
    r = r ? r : opt_i64(m, "node-id", 0, INT32_MAX, &node_id);
    if (r == 0 && access(t.conf_path, F_OK) == 0)
        r = mq_fail(m, MQ_E_CONFLICT, "instance %s exists: %s", name, t.conf_path);
    if (r == 0 && log_dirs != NULL && (log_dirs[0] != '/' || strchr(log_dirs, '\n') != NULL))
        r = mq_fail(m, MQ_E_USAGE, "--log-dirs: an absolute path");
    r = r ? r : choose_port(m, &port);
    if (r != 0)
        return r;
    text = conf_text(m, node_id, port, log_dirs);
    if (m->dry_run) {
        fputs(text, stdout);
        return MQ_E_REFUSED;
    }
    dir = mq_printf(m, ETC_LEAT "/%s", name);
    r = fs_mkdir_p(dir, 0755);
    r = r < 0 ? r : fs_write_file_atomic(t.conf_path, text, strlen(text), 0644);
    if (r < 0)
        return mq_fail_errno(m, r, "%s", t.conf_path);
    r = give_to_group(m, t.conf_path);
    if (r != 0)
        return r;
    doc = json_object();
    doc_set_text(doc, "instance", name);
    doc_set_text(doc, "config", t.conf_path);
    doc_set(doc, "port", json_integer(port));
    doc_set_text(doc, "data_dir", t.data_dir);
    if (!output_is_text(m))
        return output_doc(m, doc, NULL);
    json_decref(doc);
    printf("%s: wrote %s, Kafka on 127.0.0.1:%lld, data in %s\n", name, t.conf_path, (long long)port, t.data_dir);
    if (log_dirs != NULL)
        advise_log_dirs(m, name, log_dirs);
    mq_hint(m, "systemctl enable --now leat@%s", name);
    return MQ_OK;
}

/* ---- drop ---------------------------------------------------------------------------------------------------------- */

int instance_drop_run(Mq *m)
{
    const char *name = m->args[0];
    bool keep = opt_has(m, "keep-data");
    json_t *doc;
    Target t;
    int r = target_instance(m, name, &t), lock = -1;

    if (r != 0)
        return r;
    if (access(t.conf_path, F_OK) < 0)
        return mq_fail(m, MQ_E_NOT_FOUND, "there is no instance %s", name);
    if (target_is_running(m, &t)) {
        mq_fail(m, MQ_E_CONFLICT, "instance %s is running", name);
        mq_hint(m, "mqctl -I %s supervisor stop", name);
        return MQ_E_CONFLICT;
    }
    if (access(t.data_dir, F_OK) == 0)
        r = target_lock_data(m, &t, &lock);
    if (r == 0 && m->dry_run)
        r = MQ_E_REFUSED;
    r = r ? r : mq_confirm(m, "drop instance %s%s?", name, keep ? "" : " with all its topics and records");
    if (r == 0 && under_systemd(&t)) {
        const char *argv[] = {"systemctl", "disable", "--quiet", mq_printf(m, "leat@%s.service", name), NULL};
        (void)run_program(m, argv); /* not enabled is as good */
    }
    if (r == 0 && !keep) {
        int e = fs_remove_tree(t.data_dir);
        if (e < 0)
            r = mq_fail_errno(m, e, "%s", t.data_dir);
    }
    if (r == 0) {
        int e = fs_remove_tree(mq_printf(m, ETC_LEAT "/%s", name));
        if (e < 0)
            r = mq_fail_errno(m, e, ETC_LEAT "/%s", name);
    }
    if (lock >= 0)
        close(lock);
    if (r != 0)
        return r;
    doc = json_object();
    doc_set_text(doc, "instance", name);
    doc_set(doc, "data_deleted", json_boolean(!keep));
    if (!output_is_text(m))
        return output_doc(m, doc, NULL);
    json_decref(doc);
    mq_note(m, "%s: dropped%s", name, keep ? ", data kept" : " with its data");
    return MQ_OK;
}
