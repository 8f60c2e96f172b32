/*
 * leat-supervisor. Everything that can be wrong with the configuration, the data directory or the sockets is found before
 * the first child runs, and ends with an exit code that says what kind of wrong it is: 64 usage, 65 damaged or newer data,
 * 69 an address in use, 74 storage, 78 configuration.
 *
 * The loop is base/loop and not sd-event: three children, one control socket and a tick need nothing that sd-event has and
 * ours lacks, and one kind of loop in all daemons is one to know.
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "supervisor/events.h"
#include "supervisor/node.h"
#include "supervisor/status.h"
#include "supervisor/verbs.h"

#define EXIT_OS       71
#define EXIT_CONFIG   78
#define NOFILE_WANTED 8192

typedef struct Shell {
    Node node;
    Options options;
    Loop *loop;
    int signal_fd;
    LoopFd *signal_source;
    unsigned stops; /* TERM and INT received */
} Shell;

static Shell shell;

static void on_signal(void *userdata UNUSED, uint32_t events UNUSED)
{
    struct signalfd_siginfo info;

    if (read(shell.signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
        return;
    if (info.ssi_signo == SIGHUP) {
        verbs_reload(&shell.node);
    } else if (shell.stops++ == 0) {
        jlog(LOG_NOTICE, "%s: stopping in order", strsignal((int)info.ssi_signo));
        node_begin_stop(&shell.node, 0);
    } else {
        jlog(LOG_WARNING, "%s again: killing what still runs", strsignal((int)info.ssi_signo));
        node_kill_all(&shell.node);
    }
}

/* Blocked before any thread exists, so that all threads inherit it (D16). */
static int open_signals(void)
{
    sigset_t set;

    (void)signal(SIGPIPE, SIG_IGN);
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -errno;
    (void)sigdelset(&set,
                    SIGCHLD); /* children are watched by pidfd; the signal itself has no use */
    shell.signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return shell.signal_fd < 0 ? -errno : 0;
}

/* Files open lazily, but thousands of partitions need as many descriptors (D34). */
static void raise_file_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur < NOFILE_WANTED)
        jlog(
            LOG_WARNING,
            "only %llu open files are allowed; a node with many partitions needs more (ulimit -Hn, LimitNOFILE=)",
            (unsigned long long)limit.rlim_cur);
}

static void print_messages(const Buf *messages)
{
    if (messages->size > 0)
        (void)!write(STDERR_FILENO, messages->data,
                     messages->size); /* file:line: for people and editors */
}

/* Return: 0 or exit code. */
static int load_config(Conf *ret)
{
    _cleanup_(buf_deinit) Buf messages = BUF_NULL;
    int r = node_config_load(&shell.options, ret, &messages);

    print_messages(&messages);
    if (r == 0)
        return 0;
    if (shell.options.check_only) /* has all it wants */
        return EXIT_CONFIG;
    jlog_write(LOG_CRIT, MESSAGE_CONFIG_REJECTED, 0, NULL, 0,
               "the configuration %s is rejected: %.*s", shell.options.config_path,
               (int)MIN(messages.size, (size_t)1500),
               messages.size > 0 ? (const char *)messages.data : strerror(-r));
    return EXIT_CONFIG;
}

/* Tells whoever started us, once: a line of JSON when ready; otherwise the closing of the descriptor is the news. */
static void on_turn_end(void *userdata UNUSED)
{
    json_t *status;
    char *text;

    if (shell.options.ready_fd < 0 || !shell.node.was_ready)
        return;
    status = status_json(&shell.node);
    text = json_dumps(status, JSON_COMPACT);
    if (text != NULL && (write(shell.options.ready_fd, text, strlen(text)) < 0 ||
                         write(shell.options.ready_fd, "\n", 1) < 0))
        jlog_errno(LOG_WARNING, errno, "--ready-fd");
    free(text);
    json_decref(status);
    base_closep(&shell.options.ready_fd);
}

static int open_log(void)
{
    int r;

    jlog_init("supervisor", shell.options.instance, LOG_SINK_AUTO);
    r = shell.options.log_file[0] == '\0' ? 0 : jlog_open_file(shell.options.log_file);
    if (r < 0)
        (void)fprintf(stderr, "leat-supervisor: --log-file %s: %s\n", shell.options.log_file,
                      strerror(-r));
    return r < 0 ? EXIT_CONFIG : 0;
}

static int run(Conf *conf)
{
    int r = loop_new(&shell.loop);

    if (r == 0)
        r = loop_add_fd(shell.loop, shell.signal_fd, EPOLLIN, on_signal, NULL,
                        &shell.signal_source);
    if (r == 0)
        r = loop_add_turn_end(shell.loop, on_turn_end, NULL);
    if (r < 0) {
        jlog_errno(LOG_CRIT, r, "the event loop cannot be made");
        return EXIT_OS;
    }
    r = node_open(&shell.node, shell.loop, &shell.options, conf);
    if (r == 0)
        r = node_start(&shell.node);
    if (r == 0)
        r = loop_run(shell.loop);
    node_close(&shell.node);
    shell.loop = loop_free(shell.loop);
    return r < 0 ? EXIT_OS : r;
}

int main(int argc, char **argv)
{
    _cleanup_(conf_deinit) Conf conf = {0};
    int r;

    shell.signal_fd = -1;
    options_parse(argc, argv, &shell.options);
    (void)umask(0027);
    r = open_log();
    if (r == 0)
        r = load_config(&conf);
    if (r != 0 || shell.options.check_only)
        return r;
    if (open_signals() < 0)
        return EXIT_OS;
    raise_file_limit();
    r = run(&conf);
    base_closep(&shell.signal_fd);
    return r;
}
