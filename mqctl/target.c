/*
 * Which node a command is about. In order: --sandbox, -I, -b; MQCTL_SANDBOX, MQCTL_INSTANCE, MQCTL_BROKER; else the
 * default sandbox if it runs, the installed instance `main` or the only one, the default sandbox.
 *
 * Layout of a sandbox:  DIR/N/{leat.conf, conf.d/, data/{meta,log}, run/{client.sock,control.sock,counters}, log/}
 * Layout of an instance: /etc/leat/I/leat.conf, /var/lib/leat/I/{meta,log}, /run/leat/I/...
 * A socket path over 107 bytes cannot be bound, so the run directory of a sandbox in a deep place moves to a private
 * short one, named by a hash of DIR: every command finds it again without being told.
 */

#include "mqctl/connect.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/conf.h"
#include "base/fs.h"
#include "base/hash.h"
#include "base/text.h"

#define SOCKET_PATH_MAX 107
#define LONGEST_SOCKET  "/control.sock"

static int copy_path(Mq *m, char *out, size_t size, const char *fmt, ...) PRINTF_LIKE(4, 5);

static int copy_path(Mq *m, char *out, size_t size, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(out, size, fmt, ap);
    va_end(ap);
    return n < 0 || (size_t)n >= size ? mq_fail(m, MQ_E_USAGE, "path is too long: %s", out) : 0;
}

static const char *home(void)
{
    const char *h = getenv("HOME");
    return h != NULL && h[0] == '/' ? h : "/tmp";
}

/* Absolute, without resolving links; trailing slashes go. */
static char *absolute(Mq *m, const char *path)
{
    char cwd[PATH_MAX], *out;
    size_t n;

    if (path[0] == '~' && path[1] == '/')
        out = mq_printf(m, "%s%s", home(), path + 1);
    else if (path[0] == '/' || getcwd(cwd, sizeof cwd) == NULL)
        out = mq_printf(m, "%s", path);
    else
        out = mq_printf(m, "%s/%s", cwd, path);
    for (n = strlen(out); n > 1 && out[n - 1] == '/'; n--)
        out[n - 1] = '\0';
    return out;
}

static const char *default_sandbox(Mq *m)
{
    const char *state = getenv("XDG_STATE_HOME");

    return state != NULL && state[0] == '/' ? mq_printf(m, "%s/leat/sandbox", state)
                                            : mq_printf(m, "%s/.local/state/leat/sandbox", home());
}

/* "DIR[:NODE]" */
static int split_sandbox(Mq *m, const char *text, const char **ret_dir, int *ret_node)
{
    const char *colon = strrchr(text, ':');
    int64_t node = 1;

    if (colon != NULL && strchr(colon, '/') == NULL) {
        if (parse_i64(colon + 1, &node) < 0 || node < 1 || node > 1000)
            return mq_fail(m, MQ_E_USAGE, "%s: '%s' is no node number", text, colon + 1);
        *ret_dir = absolute(m, mq_printf(m, "%.*s", (int)(colon - text), text));
    } else {
        *ret_dir = absolute(m, text);
    }
    *ret_node = (int)node;
    return 0;
}

int target_sandbox_dir(Mq *m, const char **ret)
{
    const char *text = opt(m, "dir");
    int node;

    if (text != NULL) {
        *ret = absolute(m, text);
        return 0;
    }
    text = opt(m, "sandbox");
    if (text == NULL)
        text = getenv("MQCTL_SANDBOX");
    if (text == NULL || text[0] == '\0') {
        *ret = default_sandbox(m);
        return 0;
    }
    return split_sandbox(m, text, ret, &node);
}

static int sandbox_run_dir(Mq *m, const char *dir, int node, Target *t)
{
    const char *base = getenv("XDG_RUNTIME_DIR");

    if (strlen(t->node_dir) + strlen("/run" LONGEST_SOCKET) <= SOCKET_PATH_MAX)
        return copy_path(m, t->run_dir, sizeof t->run_dir, "%s/run", t->node_dir);
    if (base == NULL || base[0] != '/' || strlen(base) > 40)
        base = "/tmp";
    return copy_path(m, t->run_dir, sizeof t->run_dir, "%s/leat-%u-%016llx-%d", base, (unsigned)getuid(),
                     (unsigned long long)hash64(dir, strlen(dir)), node);
}

int target_sandbox(Mq *m, const char *dir, int node, Target *ret)
{
    Target t = {.kind = TARGET_SANDBOX};
    int r = 0;

    snprintf(t.name, sizeof t.name, "sandbox %s node %d", dir, node);
    snprintf(t.instance, sizeof t.instance, "%d", node);
    r = copy_path(m, t.node_dir, sizeof t.node_dir, "%s/%d", dir, node);
    r = r ? r : copy_path(m, t.conf_path, sizeof t.conf_path, "%s/leat.conf", t.node_dir);
    r = r ? r : copy_path(m, t.data_dir, sizeof t.data_dir, "%s/data", t.node_dir);
    r = r ? r : copy_path(m, t.log_dir, sizeof t.log_dir, "%s/log", t.node_dir);
    r = r ? r : sandbox_run_dir(m, dir, node, &t);
    r = r ? r : copy_path(m, t.bootstrap, sizeof t.bootstrap, "unix:%s/client.sock", t.run_dir);
    if (r == 0)
        *ret = t;
    return r;
}

int target_instance(Mq *m, const char *name, Target *ret)
{
    Target t = {.kind = TARGET_INSTANCE};

    if (!topic_name_is_valid(name, strlen(name)) || strlen(name) > 64 || name[0] == '.' || name[0] == '-')
        return mq_fail(m, MQ_E_USAGE, "'%s' is no instance name: letters, digits, '.', '_' and '-', at most 64", name);
    snprintf(t.name, sizeof t.name, "instance %s", name);
    snprintf(t.instance, sizeof t.instance, "%s", name);
    snprintf(t.conf_path, sizeof t.conf_path, "/etc/leat/%s/leat.conf", name);
    snprintf(t.data_dir, sizeof t.data_dir, "/var/lib/leat/%s", name);
    snprintf(t.run_dir, sizeof t.run_dir, "/run/leat/%s", name);
    snprintf(t.log_dir, sizeof t.log_dir, "/var/log/leat/%s", name);
    snprintf(t.bootstrap, sizeof t.bootstrap, "unix:/run/leat/%s/client.sock", name);
    *ret = t;
    return 0;
}

static int address(Mq *m, const char *text, Target *ret)
{
    Target t = {.kind = TARGET_ADDRESS};

    if (text[0] == '/')
        snprintf(t.bootstrap, sizeof t.bootstrap, "unix:%s", text);
    else
        snprintf(t.bootstrap, sizeof t.bootstrap, "%s", text);
    if (strncmp(t.bootstrap, "unix:", 5) != 0 && strchr(t.bootstrap, ':') == NULL)
        return mq_fail(m, MQ_E_USAGE, "-b %s: expected host:port or unix:PATH", text);
    snprintf(t.name, sizeof t.name, "%.280s", t.bootstrap);
    *ret = t;
    return 0;
}

/* `main`, or the only instance there is; NULL. */
static const char *default_instance(Mq *m)
{
    DIR *d = opendir("/etc/leat");
    const char *found = NULL;
    int n = 0;

    if (d == NULL)
        return NULL;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.' || access(mq_printf(m, "/etc/leat/%s/leat.conf", e->d_name), F_OK) < 0)
            continue;
        n++;
        if (found == NULL || strcmp(e->d_name, "main") == 0)
            found = mq_printf(m, "%s", e->d_name);
    }
    closedir(d);
    return n == 1 || (found != NULL && strcmp(found, "main") == 0) ? found : NULL;
}

static int resolve_default(Mq *m)
{
    const char *dir = default_sandbox(m), *instance;
    Target sandbox;
    int r = target_sandbox(m, dir, 1, &sandbox);
    bool exists;

    if (r != 0)
        return r;
    exists = access(sandbox.conf_path, F_OK) == 0;
    if (!exists || !target_is_running(m, &sandbox)) {
        instance = default_instance(m);
        if (instance != NULL)
            return target_instance(m, instance, &m->target);
    }
    if (!exists) {
        mq_fail(m, MQ_E_UNREACHABLE, "there is no node: no sandbox in %s and no instance in /etc/leat", dir);
        mq_hint(m, "mqctl sandbox start");
        return MQ_E_UNREACHABLE;
    }
    m->target = sandbox;
    return 0;
}

static int resolve_from(Mq *m, const char *sandbox, const char *instance, const char *broker)
{
    const char *dir;
    int node, r;

    if (sandbox != NULL && sandbox[0] != '\0') {
        r = split_sandbox(m, sandbox, &dir, &node);
        return r != 0 ? r : target_sandbox(m, dir, node, &m->target);
    }
    if (instance != NULL && instance[0] != '\0')
        return target_instance(m, instance, &m->target);
    if (broker != NULL && broker[0] != '\0')
        return address(m, broker, &m->target);
    return -1;
}

int target_resolve(Mq *m)
{
    int r;

    if (m->target.kind != TARGET_NONE)
        return 0;
    if (opt_has(m, "sandbox") + opt_has(m, "instance") + opt_has(m, "broker") > 1)
        return mq_fail(m, MQ_E_USAGE, "--sandbox, -I and -b exclude each other");
    r = resolve_from(m, opt(m, "sandbox"), opt(m, "instance"), opt(m, "broker"));
    if (r < 0)
        r = resolve_from(m, getenv("MQCTL_SANDBOX"), getenv("MQCTL_INSTANCE"), getenv("MQCTL_BROKER"));
    return r < 0 ? resolve_default(m) : r;
}

int target_need_node(Mq *m)
{
    int r = target_resolve(m);

    if (r == 0 && m->target.kind == TARGET_ADDRESS)
        return mq_fail(m, MQ_E_USAGE, "this needs a node of this machine: use --sandbox or -I instead of -b");
    return r;
}

const char *target_socket(Mq *m, const Target *t, const char *name)
{
    return mq_printf(m, "%s/%s", t->run_dir, name);
}

int target_log_dir(Mq *m, const char **ret)
{
    _cleanup_(conf_deinit) Conf conf = {0};
    ConfError error;
    const char *dirs = NULL;
    int r = target_need_node(m);

    if (r != 0)
        return r;
    if (conf_parse_tree(&conf, m->target.conf_path, &error) == 0)
        dirs = conf_get(&conf, "log.dirs", conf_get(&conf, "log.dir", NULL));
    *ret = dirs != NULL && dirs[0] != '\0' ? mq_printf(m, "%.*s", (int)strcspn(dirs, ","), dirs)
                                           : mq_printf(m, "%s/log", m->target.data_dir);
    return 0;
}

/* The supervisor and its children hold the lock as long as one of them lives. Connecting to control.sock would say
 * less: a supervisor that hangs has the directory, too. */
bool target_is_running(Mq *m, const Target *t)
{
    int fd = open(mq_printf(m, "%s/" TARGET_LOCK_NAME, t->data_dir), O_RDONLY | O_CLOEXEC);
    bool held;

    if (fd < 0)
        return errno == EACCES && access(target_socket(m, t, "control.sock"), F_OK) == 0;
    held = flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
    close(fd);
    return held;
}

int target_lock_data(Mq *m, const Target *t, int *ret_fd)
{
    const char *path = mq_printf(m, "%s/" TARGET_LOCK_NAME, t->data_dir);
    int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    if (lock < 0)
        return mq_fail_errno(m, -errno, "%s", path);
    if (flock(lock, LOCK_EX | LOCK_NB) < 0) {
        close(lock);
        mq_fail(m, MQ_E_CONFLICT, "%s is running; this works on the files of a stopped node", t->name);
        if (t->kind == TARGET_SANDBOX)
            mq_hint(m, "mqctl sandbox stop --dir %.*s", (int)(strrchr(t->node_dir, '/') - t->node_dir), t->node_dir);
        else
            mq_hint(m, "mqctl -I %s supervisor stop", t->instance);
        return MQ_E_CONFLICT;
    }
    *ret_fd = lock;
    return 0;
}

int target_become_owner(Mq *m, const Target *t)
{
    struct stat st;

    if (stat(t->data_dir, &st) < 0)
        return mq_fail_errno(m, -errno, "%s", t->data_dir);
    if (geteuid() != 0 || st.st_uid == 0)
        return 0;
    if (setegid(st.st_gid) < 0 || seteuid(st.st_uid) < 0)
        return mq_fail_errno(m, -errno, "owner of %s", t->data_dir);
    return 0;
}
