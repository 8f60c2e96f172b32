/*
 * See spawn.h. Between _Fork() and fexecve() the child is a copy of one thread of a program with several: any lock may be
 * held for ever. So everything is prepared before, and the child calls only what signal handlers may call.
 */

#include "supervisor/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/kernel.h"

#define EXIT_CONFIG      78
#define EXIT_EXEC_FAILED 127
#define INHERITED_MAX    (5 + CHILD_FDS_MAX)
#define ARGUMENTS_MAX    (2 * INHERITED_MAX + 2)
#define ARGUMENT_SIZE    64

static int open_program(const char *dir, const char *middle, CountersRole role, Program *ret)
{
    int n =
        snprintf(ret->path, sizeof(ret->path), "%s%s/leat-%s", dir, middle, child_role_name(role));

    if (n >= (int)sizeof(ret->path))
        return -ENAMETOOLONG;
    ret->fd = open(ret->path, O_RDONLY | O_CLOEXEC);
    if (ret->fd < 0)
        return -errno;
    if (faccessat(ret->fd, "", X_OK, AT_EMPTY_PATH | AT_EACCESS) < 0 && errno != EINVAL) {
        int r = -errno;

        base_closep(&ret->fd);
        return r;
    }
    return 0;
}

int spawn_open_program(CountersRole role, Program *ret, char *why, size_t why_size)
{
    const char *fixed = getenv("LEAT_LIBEXECDIR");
    char own[PATH_MAX], sibling[64];
    const char *const middles[] = {"", sibling, "/../libexec/leat", "/../lib/leat"};
    ssize_t n = readlink("/proc/self/exe", own, sizeof(own) - 1);
    int r = -ENOENT;
    char *slash;

    own[MAX(n, 0)] = '\0';
    slash = strrchr(own, '/');
    if (slash != NULL)
        *slash = '\0';
    (void)snprintf(sibling, sizeof(sibling), "/../%s",
                   child_role_name(role)); /* source folders bear the roles' names */
    ret->fd = -1;
    if (fixed != NULL)
        r = open_program(fixed, "", role, ret);
    for (size_t i = 0; fixed == NULL && r < 0 && i < ARRAY_SIZE(middles); i++)
        r = open_program(own, middles[i], role, ret);
    if (r == 0)
        return 0;
    (void)snprintf(why, why_size, "leat-%s is not to be found in %.200s%s: %s",
                   child_role_name(role), fixed != NULL ? fixed : own,
                   fixed != NULL ? "" : " or its neighbours", strerror(-r));
    return EXIT_CONFIG;
}

int spawn_config_memfd(const void *text, size_t size)
{
    int fd = kernel_memfd("leat-config");
    int r;

    if (fd < 0)
        return fd;
    r = fs_pwrite_all(fd, text, size, 0);
    if (r == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
        r = -errno;
    if (r < 0) {
        (void)close(fd);
        return r;
    }
    return fd;
}

typedef struct Prepared {
    char text[ARGUMENTS_MAX][ARGUMENT_SIZE];
    char *argv[ARGUMENTS_MAX + 1];
    size_t n;
    int fds[INHERITED_MAX]; /* to survive exec */
    size_t n_fds;
} Prepared;

static void add_argument(Prepared *p, const char *text)
{
    assert(p->n < ARGUMENTS_MAX);
    (void)snprintf(p->text[p->n], ARGUMENT_SIZE, "%s", text);
    p->argv[p->n] = p->text[p->n];
    p->n++;
    p->argv[p->n] = NULL;
}

static void keep_fd(Prepared *p, int fd)
{
    if (fd < 0)
        return;
    assert(p->n_fds < INHERITED_MAX);
    p->fds[p->n_fds++] = fd;
}

static void add_fd(Prepared *p, const char *option, const char *name, int fd)
{
    char text[ARGUMENT_SIZE];

    add_argument(p, option);
    (void)snprintf(text, sizeof(text), "%s%s%d", name, name[0] == '\0' ? "" : "=", fd);
    add_argument(p, text);
    keep_fd(p, fd);
}

static void prepare(const SpawnOrder *o, int child_end, Prepared *p)
{
    char name[ARGUMENT_SIZE];

    *p = (Prepared){.n = 0};
    (void)snprintf(name, sizeof(name), "leat-%s", child_role_name(o->role));
    add_argument(p, name);
    add_fd(p, "--super-fd", "", child_end);
    add_fd(p, "--config-fd", "", o->config_fd);
    add_fd(p, "--counters-fd", "", o->counters_fd);
    if (o->sockets != NULL) {
        add_fd(p, "--client-fd", "", o->sockets->client_fd);
        for (size_t i = 0; i < o->sockets->n_kafka; i++)
            add_fd(p, "--kafka-fd", o->sockets->kafka[i].endpoint.name, o->sockets->kafka[i].fd);
    }
    keep_fd(p, o->data->lock_fds[0]);
    keep_fd(p, o->data->lock_fds[1]);
}

/* The child's side of the fork. Async-signal-safe calls only. */
static _Noreturn void become(const Prepared *p, int program_fd, pid_t supervisor)
{
    static const int defaults[] = {SIGPIPE, SIGTERM, SIGINT, SIGHUP, SIGCHLD};
    static const char message[] = "leat-supervisor: a child's program cannot be executed\n";
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigset_t none;

    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != supervisor)
        _exit(EXIT_EXEC_FAILED); /* the supervisor died first: nobody would ever stop us */
    (void)setpgid(0, 0); /* the terminal's ^C goes to the supervisor, which stops us in order */
    for (size_t i = 0; i < ARRAY_SIZE(defaults); i++)
        (void)sigaction(defaults[i], &action, NULL);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    for (size_t i = 0; i < p->n_fds; i++)
        if (fcntl(p->fds[i], F_SETFD, 0) < 0)
            _exit(EXIT_EXEC_FAILED);
    (void)fexecve(program_fd, p->argv, environ);
    (void)!write(STDERR_FILENO, message, sizeof(message) - 1);
    _exit(EXIT_EXEC_FAILED);
}

int spawn_child(const SpawnOrder *order, Spawned *ret)
{
    pid_t self = getpid(), pid;
    int pair[2], pidfd;
    Prepared p;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    if (fcntl(pair[0], F_SETFL, O_RDWR | O_NONBLOCK) < 0)
        goto failed;
    prepare(order, pair[1], &p);
    pid = _Fork(); /* without pthread_atfork handlers: nng's would count for nothing here */
    if (pid < 0)
        goto failed;
    if (pid == 0)
        become(&p, order->program->fd, self);
    (void)close(pair[1]);
    pidfd = pidfd_open(pid, 0); /* not reaped yet, so the pid is still its own */
    if (pidfd < 0) {
        int r = -errno;

        (void)kill(pid, SIGKILL); /* unwatched, it would be worse than none; reaped as an orphan */
        (void)close(pair[0]);
        return r;
    }
    *ret = (Spawned){.pid = pid, .pidfd = pidfd, .sock = pair[0]};
    return 0;

failed:;
    int r = -errno;

    (void)close(pair[0]);
    (void)close(pair[1]);
    return r;
}
