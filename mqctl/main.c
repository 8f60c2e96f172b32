/* Entry, messages, and the mapping of errors to exit statuses. */

#include "mqctl/mqctl.h"

#include <errno.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mqctl/node.h"

volatile int mq_interrupted;

static void vsay(const char *prefix, const char *fmt, va_list ap)
{
    fflush(stdout);
    fputs(prefix, stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
}

int mq_fail(Mq *m, int status, const char *fmt, ...)
{
    va_list ap;

    (void)m;
    va_start(ap, fmt);
    vsay("mqctl: ", fmt, ap);
    va_end(ap);
    return status;
}

void mq_note(Mq *m, const char *fmt, ...)
{
    va_list ap;

    if (m->quiet)
        return;
    va_start(ap, fmt);
    vsay("", fmt, ap);
    va_end(ap);
}

void mq_hint(Mq *m, const char *fmt, ...)
{
    va_list ap;

    if (m->quiet)
        return;
    va_start(ap, fmt);
    vsay("-> ", fmt, ap);
    va_end(ap);
}

int mq_confirm(Mq *m, const char *fmt, ...)
{
    char answer[64];
    va_list ap;

    if (m->yes)
        return 0;
    va_start(ap, fmt);
    fflush(stdout);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    if (!isatty(STDIN_FILENO)) {
        fputc('\n', stderr);
        return mq_fail(m, MQ_E_REFUSED, "not done: this needs -y when nobody can be asked");
    }
    fputs(" [y/N] ", stderr);
    if (fgets(answer, sizeof answer, stdin) != NULL && (answer[0] == 'y' || answer[0] == 'Y'))
        return 0;
    return mq_fail(m, MQ_E_REFUSED, "not done");
}

int mq_status_of_errno(int error)
{
    switch (-error) {
    case ECONNREFUSED:
    case ECONNRESET:
    case ENOTCONN:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EPIPE:
        return MQ_E_UNREACHABLE;
    case EACCES:
    case EPERM:
        return MQ_E_DENIED;
    case ENOENT:
        return MQ_E_NOT_FOUND;
    case EEXIST:
    case EBUSY:
        return MQ_E_CONFLICT;
    case ETIMEDOUT:
        return MQ_E_TIMEOUT;
    case EINVAL:
        return MQ_E_USAGE;
    case EINTR:
        return MQ_E_INTERRUPTED;
    default:
        return MQ_E_FAILED;
    }
}

int mq_status_of_kafka(KafkaError error)
{
    switch (error) {
    case K_NONE:
        return MQ_OK;
    case K_UNKNOWN_TOPIC_OR_PARTITION:
    case K_UNKNOWN_TOPIC_ID:
    case K_GROUP_ID_NOT_FOUND:
    case K_RESOURCE_NOT_FOUND:
        return MQ_E_NOT_FOUND;
    case K_TOPIC_ALREADY_EXISTS:
    case K_NON_EMPTY_GROUP:
    case K_GROUP_SUBSCRIBED_TO_TOPIC:
    case K_INVALID_PARTITIONS:
        return MQ_E_CONFLICT;
    case K_TOPIC_AUTHORIZATION_FAILED:
    case K_GROUP_AUTHORIZATION_FAILED:
    case K_CLUSTER_AUTHORIZATION_FAILED:
        return MQ_E_DENIED;
    case K_REQUEST_TIMED_OUT:
        return MQ_E_TIMEOUT;
    default:
        return MQ_E_FAILED;
    }
}

int mq_fail_errno(Mq *m, int error, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return mq_fail(m, mq_status_of_errno(error), "%s: %s", text, strerror(-error));
}

/* The node may know more than its answer tells. */
static bool is_of_the_node(KafkaError error)
{
    return error == K_KAFKA_STORAGE_ERROR || error == K_CORRUPT_MESSAGE || error == K_COORDINATOR_NOT_AVAILABLE ||
           error == K_LEADER_NOT_AVAILABLE || error == K_NOT_ENOUGH_REPLICAS;
}

int mq_fail_kafka(Mq *m, KafkaError error, const char *message, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (message == NULL || message[0] == '\0')
        message = k_error_message(error);
    mq_fail(m, mq_status_of_kafka(error), "%s: %s (%s)", text, message, k_error_name(error));
    if (is_of_the_node(error))
        (void)node_explain(m);
    return mq_status_of_kafka(error);
}

void *mq_alloc(Mq *m, size_t size)
{
    void *p = arena_alloc(&m->arena, size);

    if (p == NULL) {
        fputs("mqctl: out of memory\n", stderr);
        exit(MQ_E_FAILED);
    }
    return p;
}

char *mq_printf(Mq *m, const char *fmt, ...)
{
    va_list ap, again;
    int n;
    char *p;

    assert(fmt != NULL);
    va_start(ap, fmt);
    va_copy(again, ap);
    n = vsnprintf(NULL, 0, fmt, ap);
    p = mq_alloc(m, (size_t)n + 1);
    vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(ap);
    return p;
}

static void on_signal(int signal)
{
    if (mq_interrupted && signal == SIGINT)
        _exit(MQ_E_INTERRUPTED); /* asked twice */
    mq_interrupted = signal;
}

void mq_catch_signals(void)
{
    struct sigaction sa = {.sa_handler = on_signal};

    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
}

/* Each look is a process of its own: a command's connections and memory live as long as it does. */
static int watch(Mq *m)
{
    int64_t every_ms = 0;
    int status = 0, r = opt_duration(m, "watch", 1000, &every_ms);

    if (r == 0 && (m->command->impact != IMPACT_RO || m->command->run == consume_run))
        r = mq_fail(m, MQ_E_USAGE, "-w: %s %s is no command to repeat", m->command->noun, m->command->verb ? m->command->verb : "");
    if (r != 0)
        return r;
    mq_catch_signals();
    while (!mq_interrupted) {
        pid_t pid;

        if (m->stdout_tty)
            fputs("\033[H\033[J", stdout);
        fflush(NULL);
        pid = fork();
        if (pid < 0)
            return mq_fail_errno(m, -errno, "fork");
        if (pid == 0) {
            r = m->command->run(m);
            _exit(fflush(stdout) == 0 ? r : MQ_E_FAILED);
        }
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        if (!mq_interrupted && WIFEXITED(status) && WEXITSTATUS(status) == MQ_E_USAGE && m->command->run != check_run)
            return MQ_E_USAGE; /* said already; it will not be better next time */
        if (!mq_interrupted)
            (void)poll(NULL, 0, (int)MIN(MAX(every_ms, 100), INT32_MAX));
    }
    return MQ_E_INTERRUPTED;
}

static int run(Mq *m, int argc, char **argv)
{
    int r = args_parse(m, argc, argv);

    if (r != 0) {
        if (m->command != NULL)
            mq_hint(m, "mqctl help %s%s%s", m->command->noun, m->command->verb ? " " : "",
                    m->command->verb ? m->command->verb : "");
        return r;
    }
    if (opt_has(m, "version")) {
        printf("mqctl %s\n", leat_version());
        return MQ_OK;
    }
    if (m->command == NULL || opt_has(m, "help"))
        return help_print(m, stdout, m->command ? m->command->noun : argc > 2 ? argv[1] : NULL,
                          m->command ? m->command->verb : NULL);
    return opt_has(m, "watch") ? watch(m) : m->command->run(m);
}

int mqctl_main(int argc, char **argv)
{
    Mq *m = calloc(1, sizeof *m);
    int r;

    if (m == NULL)
        return MQ_E_FAILED;
    setlocale(LC_ALL, "");
    setlocale(LC_NUMERIC, "C");
    signal(SIGPIPE, SIG_IGN);
    m->self = argv[0];
    m->timeout_ms = 10000;
    m->stdout_tty = isatty(STDOUT_FILENO);
    m->stderr_tty = isatty(STDERR_FILENO);
    r = run(m, argc, argv);
    connect_close(m);
    arena_deinit(&m->arena);
    if (fflush(stdout) != 0 && errno != EPIPE && r == MQ_OK)
        r = mq_fail(m, MQ_E_FAILED, "standard output: %s", strerror(errno));
    free(m);
    return r;
}
