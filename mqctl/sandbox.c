/*
 * mqctl sandbox: a node of one's own in a directory (layout: target.c). The supervisor is found beside mqctl's own
 * executable, started in a session of its own, and says on a pipe when the node is ready - or closes it when it cannot be.
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/conf.h"
#include "base/fs.h"
#include "base/text.h"
#include "meta/config_keys.h"
#include "mqctl/node.h"
#include "mqctl/output.h"

#define PORT_DEFAULT     19092
#define PORT_STEP        10 /* node i: P + 10 (i - 1): Kafka, controller, replication (D32) */
#define PORT_TRIES       20 /* sandboxes beside each other: P, P + 100, ... when nobody asked for a port */
#define START_TIMEOUT_MS 60000
#define STOP_TIMEOUT_MS  60000
#define READY_FD         3
#define STATUS_MAX       (1u << 20)
#define MADE_BY          "# Written by `mqctl sandbox start`."

/* ---- configuration ------------------------------------------------------------------------------------------------- */

static char *conf_text(Mq *m, int node, int64_t port)
{
    return mq_printf(m,
                     MADE_BY " Settings of your own: conf.d/*.conf beside this file.\n"
                             "node.id = %d\n"
                             "listeners = PLAINTEXT://127.0.0.1:%lld\n"
                             "# A sandbox isolates nothing: whoever reaches the port may do everything.\n"
                             "listener.admin = yes\n"
                             "group.initial.rebalance.delay.ms = 0\n",
                     node, (long long)port);
}

/* For a new sandbox that was given no port: another sandbox may have the default one. */
static int64_t free_port(int node)
{
    for (int64_t port = PORT_DEFAULT; port < PORT_DEFAULT + 100 * PORT_TRIES; port += 100) {
        int fd = sock_listen_tcp("127.0.0.1", (uint16_t)(port + (int64_t)PORT_STEP * (node - 1)), 1, NULL);
        if (fd >= 0) {
            close(fd);
            return port;
        }
    }
    return PORT_DEFAULT;
}

/* @port 0: what is there already, else a free one. A file that we did not write is left alone. */
static int write_conf(Mq *m, const Target *t, int node, int64_t port)
{
    _cleanup_(buf_deinit) Buf old = BUF_NULL;
    bool exists = fs_read_file(t->conf_path, 1 << 20, &old) == 0;
    const char *text;
    int r;

    if (exists && port == 0)
        return 0;
    text = conf_text(m, node, (port > 0 ? port : free_port(node)) + (int64_t)PORT_STEP * (node - 1));
    if (exists && (old.size < strlen(MADE_BY) || memcmp(old.data, MADE_BY, strlen(MADE_BY)) != 0 ||
                   (old.size == strlen(text) && memcmp(old.data, text, old.size) == 0)))
        return 0;
    r = fs_write_file_atomic(t->conf_path, text, strlen(text), 0644);
    return r < 0 ? mq_fail_errno(m, r, "%s", t->conf_path) : 0;
}

/* What the supervisor would refuse is said here, with file and line, before anything is started. */
static int check_conf(Mq *m, const Target *t)
{
    _cleanup_(conf_deinit) Conf conf = {0};
    _cleanup_(buf_deinit) Buf messages = BUF_NULL;
    MetaEndpoint e[META_ENDPOINTS_MAX];
    ConfError error = {""};
    char why[256];
    int r = conf_parse_tree(&conf, t->conf_path, &error), n, fd;

    if (r < 0)
        return mq_fail(m, MQ_E_CONFIG, "%s", error.text[0] ? error.text : strerror(-r));
    if (config_check(&conf, &messages) > 0) {
        fprintf(stderr, "%.*s", (int)messages.size, (const char *)messages.data);
        return mq_fail(m, MQ_E_CONFIG, "the configuration does not check; nothing was started");
    }
    n = config_listeners(&conf, false, e, ARRAY_SIZE(e), why, sizeof why);
    for (int i = 0; i < n; i++) {
        fd = e[i].port == 0 ? -EINVAL : sock_listen_tcp(e[i].host, e[i].port, 1, NULL);
        if (fd >= 0)
            close(fd);
        if (fd == -EADDRINUSE) {
            mq_fail(m, MQ_E_CONFLICT, "port %u is taken", e[i].port);
            mq_hint(m, "mqctl sandbox start --dir %.*s --port %u", (int)(strrchr(t->node_dir, '/') - t->node_dir), t->node_dir,
                    e[i].port < 60000 ? e[i].port + 10000u : 19092u);
            return MQ_E_CONFLICT;
        }
    }
    return 0;
}

/* ---- directories --------------------------------------------------------------------------------------------------- */

/* Ours alone: the run directory may lie in /tmp, where others could have been first. */
static int private_dir(Mq *m, const char *path)
{
    struct stat st;
    int r = fs_mkdir_p(path, 0700);

    if (r < 0)
        return mq_fail_errno(m, r, "%s", path);
    if (lstat(path, &st) < 0)
        return mq_fail_errno(m, -errno, "%s", path);
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022) != 0)
        return mq_fail(m, MQ_E_DENIED, "%s is not a directory of yours alone", path);
    return 0;
}

static int make_dirs(Mq *m, const Target *t)
{
    int r = fs_mkdir_p(t->node_dir, 0755);

    if (r < 0)
        return mq_fail_errno(m, r, "%s", t->node_dir);
    r = private_dir(m, t->data_dir);
    r = r ? r : private_dir(m, t->log_dir);
    return r ? r : private_dir(m, t->run_dir);
}

/* ---- start --------------------------------------------------------------------------------------------------------- */

static const char *find_supervisor(Mq *m)
{
    static const char *const places[] = {"../supervisor/leat-supervisor", "leat-supervisor", "../sbin/leat-supervisor"};
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    char *slash;

    if (n <= 0)
        return NULL;
    self[n] = '\0';
    slash = strrchr(self, '/');
    *slash = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        const char *path = mq_printf(m, "%s/%s", self, places[i]);
        if (access(path, X_OK) == 0)
            return path;
    }
    return NULL;
}

/* In the child, between fork and exec: async-signal-safe calls only. */
static _Noreturn void become_supervisor(const char *program, const char *const *argv, int ready_fd, int null_fd, int err_fd)
{
    sigset_t none;

    setsid();
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    if (dup2(null_fd, 0) < 0 || dup2(err_fd, 1) < 0 || dup2(err_fd, 2) < 0)
        _exit(1);
    if (ready_fd == READY_FD ? fcntl(ready_fd, F_SETFD, 0) < 0 : dup2(ready_fd, READY_FD) < 0)
        _exit(1);
    syscall(SYS_close_range, READY_FD + 1, ~0U, 0);
    execv(program, (char *const *)(uintptr_t)argv);
    _exit(127);
}

static int spawn_supervisor(Mq *m, const Target *t, const char *err_path, int *ret_ready_fd, pid_t *ret_pid)
{
    const char *program = find_supervisor(m);
    _cleanup_(base_closep) int null_fd = -1, err_fd = -1;
    const char *argv[] = {"leat-supervisor", "--config", t->conf_path, "--data-dir", t->data_dir, "--run-dir", t->run_dir,
                          "--log-file", mq_printf(m, "%s/leat.log", t->log_dir), "--ready-fd", mq_printf(m, "%d", READY_FD), NULL};
    int fds[2];
    pid_t pid;

    if (program == NULL)
        return mq_fail(m, MQ_E_FAILED, "leat-supervisor is not beside mqctl (../supervisor/, ../sbin/)");
    null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    err_fd = open(err_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (null_fd < 0 || err_fd < 0)
        return mq_fail_errno(m, -errno, "%s", err_path);
    if (pipe2(fds, O_CLOEXEC) < 0)
        return mq_fail_errno(m, -errno, "pipe");
    fflush(NULL);
    pid = fork();
    if (pid == 0)
        become_supervisor(program, argv, fds[1], null_fd, err_fd);
    close(fds[1]);
    if (pid < 0) {
        close(fds[0]);
        return mq_fail_errno(m, -errno, "fork");
    }
    *ret_ready_fd = fds[0];
    *ret_pid = pid;
    return 0;
}

/* The last words of a supervisor that gave up. */
static void print_last_words(Mq *m, const char *err_path)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;

    if (fs_read_file(err_path, 1 << 20, &text) == 0 && text.size > 0) {
        const char *p = (char *)text.data;
        size_t skip = text.size > 4000 ? text.size - 4000 : 0;
        fprintf(stderr, "%.*s", (int)(text.size - skip), p + skip);
    }
    mq_hint(m, "%s and leat.log beside it", err_path);
}

/* Reads the line of status. Return: 0; or an exit status after saying why. */
static int await_ready(Mq *m, int fd, pid_t pid, const char *err_path, json_t **ret)
{
    int64_t deadline = clock_mono_ms() + wait_timeout(m, START_TIMEOUT_MS);
    _cleanup_(buf_deinit) Buf line = BUF_NULL;
    int status;

    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = deadline - clock_mono_ms();
        ssize_t n;

        if (left <= 0 || mq_interrupted)
            return mq_fail(m, mq_interrupted ? MQ_E_INTERRUPTED : MQ_E_TIMEOUT,
                           "not ready yet (pid %d); it goes on starting: mqctl wait ready", (int)pid);
        if (poll(&p, 1, (int)MIN(left, 1000)) <= 0)
            continue;
        if (buf_reserve(&line, 65536) < 0 || line.size > STATUS_MAX)
            return mq_fail(m, MQ_E_FAILED, "status of the node is too long");
        n = read(fd, line.data + line.size, 65536);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        line.size += (size_t)n;
        if (memchr(line.data, '\n', line.size) != NULL) {
            *ret = json_loadb((char *)line.data, line.size, JSON_DISABLE_EOF_CHECK, NULL);
            return *ret != NULL ? 0 : mq_fail(m, MQ_E_FAILED, "status of the node cannot be read");
        }
    }
    status = 0;
    (void)waitpid(pid, &status, 0);
    print_last_words(m, err_path);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return mq_fail(m, MQ_E_FAILED, "leat-supervisor could not be executed");
    if (WIFEXITED(status))
        return mq_fail(m, WEXITSTATUS(status) == MQ_E_CONFIG ? MQ_E_CONFIG : MQ_E_FAILED, "leat-supervisor ended with status %d",
                       WEXITSTATUS(status));
    return mq_fail(m, MQ_E_FAILED, "leat-supervisor died: %s", strsignal(WTERMSIG(status)));
}

/* Daemons that somebody stopped or that gave up are started; the others come by themselves. */
static void start_missing(Mq *m, const Target *t, const json_t *status)
{
    size_t i;
    json_t *p, *body;
    char *why;

    json_array_foreach(json_object_get(status, "processes"), i, p) {
        const char *role = doc_text(p, "role", ""), *state = doc_text(p, "state", "");

        if (strcmp(state, "stopped") != 0 && strcmp(state, "failed") != 0)
            continue;
        mq_note(m, "%s of %s is %s; starting it", role, t->name, state);
        (void)control_try(m, t, "start", &role, 1, START_TIMEOUT_MS, &body, &why); /* the next status tells */
        json_decref(body);
    }
}

/* Something holds the lock: a node that runs, or the last children of one that was killed. Return: 0 ready with *ret, or
 * the lock is free now and *ret is NULL; else an exit status. */
static int join_running(Mq *m, const Target *t, json_t **ret)
{
    int64_t deadline = clock_mono_ms() + wait_timeout(m, START_TIMEOUT_MS);
    bool asked = false;
    char *why;

    while (target_is_running(m, t)) {
        int r = node_status(m, t, 5000, ret, &why);

        if (r == 0 && json_is_true(json_object_get(*ret, "ready")))
            return 0;
        if (r == 0 && !asked) {
            start_missing(m, t, *ret);
            asked = true;
        }
        if (r == 0)
            why = mq_printf(m, "state %s", doc_text(*ret, "state", "?"));
        json_decref(*ret);
        *ret = NULL;
        if (clock_mono_ms() >= deadline || mq_interrupted)
            return mq_fail(m, MQ_E_TIMEOUT, "%s runs but is not ready: %s", t->name, why);
        poll(NULL, 0, 5);
    }
    return 0;
}

int sandbox_start_node(Mq *m, const char *dir, int node, int64_t port, json_t **ret)
{
    const char *err_path;
    pid_t pid;
    Target t;
    int r = target_sandbox(m, dir, node, &t), fd;

    if (r != 0)
        return r;
    mq_catch_signals();
    *ret = NULL;
    r = join_running(m, &t, ret);
    if (r != 0 || *ret != NULL)
        return r;
    r = make_dirs(m, &t);
    r = r ? r : write_conf(m, &t, node, port);
    r = r ? r : check_conf(m, &t);
    if (r != 0)
        return r;
    err_path = mq_printf(m, "%s/stderr.log", t.log_dir);
    r = spawn_supervisor(m, &t, err_path, &fd, &pid);
    if (r != 0)
        return r;
    r = await_ready(m, fd, pid, err_path, ret);
    close(fd);
    return r;
}

static json_t *node_doc(Mq *m, const Target *t, const json_t *status)
{
    json_t *doc = json_object();

    doc_set(doc, "id", json_integer(atoi(t->instance)));
    doc_set_text(doc, "state", status != NULL ? doc_text(status, "state", "?") : "stopped");
    doc_set_text(doc, "kafka", status != NULL ? node_kafka_address(m, status) : NULL);
    doc_set_text(doc, "socket", status != NULL ? doc_text(status, "client_socket", target_socket(m, t, "client.sock")) : NULL);
    doc_set(doc, "supervisor_pid", status != NULL ? json_integer(doc_i64(status, "pid", 0)) : json_null());
    doc_set_text(doc, "data_dir", t->data_dir);
    doc_set_text(doc, "dir", t->node_dir);
    return doc;
}

static const Column node_columns[] = {{"NODE", "id", COL_COUNT, false},  {"STATE", "state", COL_TEXT, false},
                                      {"KAFKA", "kafka", COL_TEXT, false}, {"SOCKET", "socket", COL_TEXT, false},
                                      {"PID", "supervisor_pid", COL_COUNT, false}, {"DATA", "data_dir", COL_TEXT, true},
                                      {NULL, NULL, COL_TEXT, false}};

static int print_nodes(Mq *m, json_t *node)
{
    json_t *doc = json_object(), *list = json_array();

    json_array_append_new(list, node);
    doc_set(doc, "nodes", list);
    return output_rows(m, doc, "nodes", node_columns);
}

int sandbox_start_run(Mq *m)
{
    int64_t nodes = 1, port = 0;
    const char *dir;
    json_t *status = NULL;
    Target t;
    int r = opt_i64(m, "nodes", 1, 1000, &nodes);

    r = r ? r : opt_i64(m, "port", 1, 65535, &port);
    r = r ? r : target_sandbox_dir(m, &dir);
    if (r == 0 && nodes != 1)
        r = mq_fail(m, MQ_E_USAGE, "--nodes %lld: this version runs clusters of one node", (long long)nodes);
    r = r ? r : target_sandbox(m, dir, 1, &t);
    r = r ? r : sandbox_start_node(m, dir, 1, port, &status);
    if (r == 0)
        r = print_nodes(m, node_doc(m, &t, status));
    json_decref(status);
    return r;
}

/* ---- stop ---------------------------------------------------------------------------------------------------------- */

/* Until the process is gone. Return: false at the deadline. */
static bool await_exit(pid_t pid, int64_t deadline_ms)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    bool gone = fd < 0 && errno == ESRCH;

    while (!gone && clock_mono_ms() < deadline_ms)
        gone = fd >= 0 ? poll(&p, 1, 100) > 0 : poll(NULL, 0, 10) == 0 && kill(pid, 0) < 0 && errno == ESRCH;
    if (fd >= 0)
        close(fd);
    return gone;
}

int sandbox_stop_node(Mq *m, const Target *t, bool drain)
{
    int64_t timeout = wait_timeout(m, STOP_TIMEOUT_MS), deadline = clock_mono_ms() + timeout + 1000;
    const char *args[] = {"all", "drain"};
    json_t *status = NULL, *body = NULL;
    char *why;
    pid_t pid;
    int r;

    if (!target_is_running(m, t))
        return mq_fail(m, MQ_E_UNREACHABLE, "%s is not running", t->name);
    while ((r = node_status(m, t, 5000, &status, &why)) != 0) {
        json_decref(status);
        if (!target_is_running(m, t))
            return MQ_OK; /* those were the last children of a supervisor that was killed */
        if (r != MQ_E_UNREACHABLE || clock_mono_ms() >= deadline || mq_interrupted) {
            mq_fail(m, r, "%s", why);
            mq_hint(m, "mqctl sandbox kill --role supervisor, if it hangs");
            return r;
        }
        poll(NULL, 0, 20);
    }
    pid = (pid_t)doc_i64(status, "pid", 0);
    json_decref(status);
    r = control_try(m, t, "stop", args, drain ? 2 : 1, timeout, &body, &why);
    json_decref(body);
    if (r != 0 && r != MQ_E_UNREACHABLE) /* it may be gone before its answer is */
        return mq_fail(m, r, "%s", why);
    if (pid > 1 && !opt_has(m, "no-wait") && !await_exit(pid, deadline))
        return mq_fail(m, MQ_E_TIMEOUT, "pid %d still runs; it goes on stopping", (int)pid);
    return MQ_OK;
}

int sandbox_stop_run(Mq *m)
{
    const char *dir;
    Target t;
    int r = target_sandbox_dir(m, &dir);

    r = r ? r : target_sandbox(m, dir, 1, &t);
    if (r != 0)
        return r;
    if (target_is_running(m, &t))
        r = sandbox_stop_node(m, &t, false);
    else if (access(t.conf_path, F_OK) < 0)
        r = mq_fail(m, MQ_E_NOT_FOUND, "there is no sandbox in %s", dir);
    return r ? r : print_nodes(m, node_doc(m, &t, NULL));
}

int sandbox_status_run(Mq *m)
{
    const char *dir;
    json_t *status = NULL;
    char *why;
    Target t;
    int r = target_sandbox_dir(m, &dir), e;

    r = r ? r : target_sandbox(m, dir, 1, &t);
    if (r != 0)
        return r;
    if (access(t.conf_path, F_OK) < 0) {
        r = mq_fail(m, MQ_E_NOT_FOUND, "there is no sandbox in %s", dir);
        mq_hint(m, "mqctl sandbox start --dir %s", dir);
        return r;
    }
    r = node_status(m, &t, 5000, &status, &why);
    e = print_nodes(m, node_doc(m, &t, r == 0 ? status : NULL));
    json_decref(status);
    return r ? MQ_E_UNREACHABLE : e;
}

/* ---- kill ---------------------------------------------------------------------------------------------------------- */

static int parse_signal(Mq *m, const char *text, int *ret)
{
    int64_t n;

    if (parse_i64(text, &n) == 0 && n > 0 && n < 65) {
        *ret = (int)n;
        return 0;
    }
    if (strncasecmp(text, "SIG", 3) == 0)
        text += 3;
    for (int i = 1; i < 32; i++) {
        const char *name = sigabbrev_np(i);
        if (name != NULL && strcasecmp(name, text) == 0) {
            *ret = i;
            return 0;
        }
    }
    return mq_fail(m, MQ_E_USAGE, "--signal: '%s' is no signal", text);
}

/* Asks the supervisor, or reads the counters file when that one is stopped or dead. */
static pid_t pid_of(Mq *m, const Target *t, const char *role)
{
    json_t *counters = counters_read(m, t);
    pid_t pid = (pid_t)doc_i64(json_object_get(counters, role), "pid", 0);

    json_decref(counters);
    return pid;
}

int sandbox_kill_run(Mq *m)
{
    static const char *const roles[] = {"broker", "controller", "consumer-coord", "supervisor"};
    const char *dir, *role = opt(m, "role"), *text = opt(m, "signal");
    int64_t node = 1;
    int number = SIGKILL;
    bool known = false;
    json_t *doc;
    pid_t pid;
    Target t;
    int r = target_sandbox_dir(m, &dir);

    r = r ? r : opt_i64(m, "node", 1, 1000, &node);
    r = r || text == NULL ? r : parse_signal(m, text, &number);
    r = r ? r : target_sandbox(m, dir, (int)node, &t);
    for (size_t i = 0; role != NULL && i < ARRAY_SIZE(roles); i++)
        known |= strcmp(role, roles[i]) == 0;
    if (r == 0 && !known)
        r = mq_fail(m, MQ_E_USAGE, "--role: broker, controller, consumer-coord or supervisor");
    if (r != 0)
        return r;
    pid = pid_of(m, &t, role);
    if (pid <= 1 || kill(pid, number) < 0)
        return mq_fail(m, MQ_E_UNREACHABLE, "%s of %s is not running", role, t.name);
    if (strcmp(role, "supervisor") == 0 && number == SIGKILL)
        (void)await_exit(pid, clock_mono_ms() + 5000);
    doc = json_object();
    doc_set_text(doc, "role", role);
    doc_set(doc, "pid", json_integer(pid));
    doc_set(doc, "signal", json_integer(number));
    if (output_is_text(m)) {
        json_decref(doc);
        mq_note(m, "%s pid %d: %s", role, (int)pid, strsignal(number));
        return MQ_OK;
    }
    return output_doc(m, doc, NULL);
}
