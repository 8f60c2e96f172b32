/*
 * The child's end of the supervisor (see child.h). Everything arrives on one SOCK_SEQPACKET socket, one message per
 * datagram; the peer is our parent, so a malformed message is a bug of the same build and ends the process.
 *
 * Three ties make sure that no child outlives its supervisor: PDEATHSIG, the check that the parent is still the process
 * that made the socket pair (it may have died before PDEATHSIG was set), and end of file on the socket.
 */

#include "meta/child.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/build_id.h"
#include "base/clock.h"
#include "base/fs.h"
#include "base/hash.h"
#include "base/log.h"
#include "wire/messages.h"

#define HEARTBEAT_NS     NS_PER_S
#define SEND_PATIENCE_MS 1000
#define SIBLINGS_MAX     ROW_COUNT
#define DECODE_MAX       (256u << 10)

#define EXIT_USAGE  64
#define EXIT_CONFIG 78
#define EXIT_ORPHAN 70

struct Child {
    CountersRole role;
    Loop *loop;
    const ChildOps *ops;
    void *userdata;
    int super_fd, config_fd, counters_fd, client_fd;
    int kafka_fds[CHILD_FDS_MAX];
    char kafka_names[CHILD_FDS_MAX][32];
    size_t n_kafka;
    Conf conf, retired; /* retired: the one before, for text still borrowed from it */
    Counters *counters;
    LoopFd *super_source;
    LoopTimer *heartbeat;
};

static const char *const role_names[ROW_COUNT] = {
    [ROW_SUPERVISOR] = "supervisor",
    [ROW_CONTROLLER] = "controller",
    [ROW_BROKER] = "broker",
    [ROW_COORDINATOR] = "consumer-coord",
};

const char *child_role_name(CountersRole role)
{
    assert((size_t)role < ROW_COUNT);
    return role_names[role];
}

CountersRole child_role_parse(const char *name)
{
    size_t i = 0;

    while (i < ROW_COUNT && strcmp(name, role_names[i]) != 0)
        i++;
    return (CountersRole)i;
}

/* Before the log is open: stderr is all there is. */
static _Noreturn void PRINTF_LIKE(2, 3) give_up(int code, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    (void)vfprintf(stderr, fmt, args);
    va_end(args);
    (void)fputc('\n', stderr);
    exit(code);
}

static int parse_fd(const char *text)
{
    char *end;
    long fd = strtol(text, &end, 10);

    if (end == text || *end != '\0' || fd < 0 || fd > INT16_MAX ||
        fs_set_cloexec((int)fd, true) < 0)
        return -1;
    return (int)fd;
}

static int parse_kafka_fd(Child *c, const char *text)
{
    const char *equals = strchr(text, '=');
    size_t n = equals == NULL ? 0 : (size_t)(equals - text);

    if (n == 0 || n >= sizeof(c->kafka_names[0]) || c->n_kafka == CHILD_FDS_MAX)
        return -1;
    memcpy(c->kafka_names[c->n_kafka], text, n);
    c->kafka_fds[c->n_kafka] = parse_fd(equals + 1);
    return c->kafka_fds[c->n_kafka++];
}

static void parse_arguments(Child *c, int argc, char **argv)
{
    static const struct option options[] = {
        {"super-fd",         required_argument, NULL, 's'},
        {"config-fd",              required_argument, NULL, 'c'},
        {"counters-fd",                  required_argument, NULL, 'n'},
        {"client-fd",required_argument, NULL, 'l'},
        {"kafka-fd",               required_argument, NULL, 'k'},
        {"version",      no_argument, NULL, 'v'},
        {0             },
    };
    int o, fd = 0;

    while (fd >= 0 && (o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (o == 's')
            fd = c->super_fd = parse_fd(optarg);
        else if (o == 'c')
            fd = c->config_fd = parse_fd(optarg);
        else if (o == 'n')
            fd = c->counters_fd = parse_fd(optarg);
        else if (o == 'l')
            fd = c->client_fd = parse_fd(optarg);
        else if (o == 'k')
            fd = parse_kafka_fd(c, optarg);
        else if (o == 'v')
            exit(puts(build_id()) < 0);
        else
            fd = -1;
    }
    if (fd < 0 || optind != argc || c->super_fd < 0 || c->config_fd < 0 || c->counters_fd < 0)
        give_up(
            EXIT_USAGE,
            "leat-%s is started by leat-supervisor, which hands it its sockets and configuration.\n"
            "Start a node with: mqctl sandbox start, or systemctl start leat@INSTANCE",
            role_names[c->role]);
}

static void tie_to_supervisor(const Child *c)
{
    struct ucred maker; /* of the socket pair, so of the supervisor */
    socklen_t size = sizeof(maker);

    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 ||
        getsockopt(c->super_fd, SOL_SOCKET, SO_PEERCRED, &maker, &size) < 0)
        give_up(EXIT_USAGE, "leat-%s: --super-fd is no socket of a supervisor: %s",
                role_names[c->role], strerror(errno));
    if (getppid() != maker.pid)
        give_up(EXIT_ORPHAN, "leat-%s: the supervisor is gone", role_names[c->role]);
}

static void set_process(const Child *c)
{
    char name[16];
    _cleanup_(base_closep) int fd = -1;

    (void)snprintf(name, sizeof(name), "leat-%s", role_names[c->role]);
    (void)prctl(PR_SET_NAME, name); /* fexecve named us after a descriptor */
    /* The terminal's ^C and hang-up are the supervisor's business: it stops its children in order. */
    (void)signal(SIGINT, SIG_IGN);
    (void)signal(SIGHUP, SIG_IGN);
    (void)signal(SIGPIPE, SIG_IGN);
    /* The supervisor is protected from the OOM killer; children are not. Raising one's own score is always allowed. */
    fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0)
        (void)!write(fd, "0", 1);
}

/* Reads a sealed memfd. Unsealed content could change while it is parsed. */
static int read_config(int fd, Conf *ret, ConfError *error)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    struct stat st;
    size_t n;
    int seals = fcntl(fd, F_GET_SEALS), r;

    if (seals < 0 || (seals & (F_SEAL_WRITE | F_SEAL_SHRINK)) != (F_SEAL_WRITE | F_SEAL_SHRINK) ||
        fstat(fd, &st) < 0 || st.st_size > CHILD_CONFIG_MAX) {
        (void)snprintf(error->text, sizeof(error->text),
                       "the configuration is not a sealed memfd of at most %u bytes",
                       CHILD_CONFIG_MAX);
        return -EBADMSG;
    }
    r = buf_reserve(&text, (size_t)st.st_size + 1);
    if (r == 0)
        r = fs_pread_all(fd, text.data, (size_t)st.st_size, 0, &n);
    if (r < 0) {
        (void)snprintf(error->text, sizeof(error->text), "the configuration cannot be read: %s",
                       strerror(-r));
        return r;
    }
    return conf_parse_buffer(ret, "effective configuration", (const char *)text.data, n, error);
}

static void apply_log_level(const Conf *conf)
{
    static const struct {
        const char *name;
        int priority;
    } levels[] = {
        {"err",     LOG_ERR    },
        {"warning", LOG_WARNING},
        {"notice",  LOG_NOTICE },
        {"info",    LOG_INFO   },
        {"debug",   LOG_DEBUG  }
    };
    const char *name = conf_get(conf, "log.level", "info");

    for (size_t i = 0; i < ARRAY_SIZE(levels); i++)
        if (strcmp(levels[i].name, name) == 0)
            jlog_set_level(levels[i].priority);
}

static void open_log(const Child *c)
{
    const char *file = conf_get(&c->conf, "leat.log.file", "");
    int r;

    jlog_init(role_names[c->role], conf_get(&c->conf, "leat.instance", ""), LOG_SINK_AUTO);
    apply_log_level(&c->conf);
    if (file[0] == '\0')
        return;
    r = jlog_open_file(file);
    if (r < 0)
        jlog_errno(LOG_WARNING, r, "the log file %s cannot be opened; logging goes to stderr",
                   file);
}

static int send_message(Child *c, const KMessage *type, const void *message)
{
    _cleanup_(buf_deinit) Buf out = BUF_NULL;
    int r = k_pack(type, 0, message, &out);

    if (r < 0)
        return r;
    r = sock_send_fds(c->super_fd, out.data, out.size, NULL, 0);
    if (r == -EAGAIN) { /* the supervisor is slow; it reads all it gets */
        struct pollfd p = {.fd = c->super_fd, .events = POLLOUT};

        (void)poll(&p, 1, SEND_PATIENCE_MS);
        r = sock_send_fds(c->super_fd, out.data, out.size, NULL, 0);
    }
    return r;
}

static void beat(void *userdata)
{
    Child *c = userdata;

    counter_add(child_row(c), COUNTER_HEARTBEAT, 1);
    loop_timer_set(c->heartbeat, loop_now_ns(c->loop) + HEARTBEAT_NS);
}

static void on_siblings(Child *c, const KSiblings *m)
{
    ChildSibling children[SIBLINGS_MAX];
    size_t n = 0;

    if (c->ops->siblings == NULL)
        return;
    for (int32_t i = 0; i < m->children.n && n < SIBLINGS_MAX; i++)
        children[n++] = (ChildSibling){.role = (CountersRole)m->children.items[i].role,
                                       .pid = m->children.items[i].pid,
                                       .ready = m->children.items[i].ready};
    c->ops->siblings(c->userdata, children, n);
}

static void on_drain(Child *c, int64_t timeout_ms)
{
    if (c->ops->drain != NULL)
        c->ops->drain(c->userdata, timeout_ms);
    else
        (void)child_drained(c, true); /* nothing to drain */
}

static void on_reload(Child *c, int fd)
{
    ConfError error = {""};
    Conf conf = {0};
    char why[256] = "";
    int r = fd < 0 ? -EBADMSG : read_config(fd, &conf, &error);
    KReloaded answer;

    if (r < 0)
        (void)snprintf(why, sizeof(why), "%.250s", error.text);
    else if (c->ops->reload != NULL)
        r = c->ops->reload(c->userdata, &conf, why, sizeof(why));
    if (r == 0) {
        conf_deinit(&c->retired);
        c->retired = c->conf;
        c->conf = conf;
        apply_log_level(&c->conf);
    } else {
        conf_deinit(&conf);
    }
    answer = (KReloaded){.ok = r == 0, .text = k_str(why)};
    (void)send_message(c, &k_reloaded, &answer); /* a dead supervisor is noticed by the loop */
}

static void on_accept_clock(Child *c)
{
    char why[256] = "";
    int r = c->ops->accept_clock == NULL ? 0 : c->ops->accept_clock(c->userdata, why, sizeof(why));
    KClockAccepted answer = {.ok = r == 0, .text = k_str(why)};

    (void)send_message(c, &k_clock_accepted, &answer);
}

static void dispatch(Child *c, const void *data, size_t size, int fd)
{
    union {
        KSiblings siblings;
        KSiblingDied died;
        KDrain drain;
        KUndrain undrain;
        KStop stop;
        KReload reload;
        KAcceptClock accept_clock;
    } m;
    Arena arena = {.limit_bytes = DECODE_MAX};
    const KMessage *type = NULL;
    int16_t number, version;
    int r = k_unpack_type(data, size, &number, &version);

    if (r == 0)
        type = k_message_by_type(number);
    if (type != &k_siblings && type != &k_sibling_died && type != &k_drain && type != &k_undrain &&
        type != &k_stop && type != &k_reload && type != &k_accept_clock)
        r = -EBADMSG;
    if (r == 0)
        r = k_unpack(type, data, size, &arena, &m, &version);
    if (r < 0)
        child_fail(c, EXIT_CONFIG,
                   "message of %zu bytes from the supervisor cannot be understood: %s", size,
                   strerror(-r));
    if (type == &k_siblings)
        on_siblings(c, &m.siblings);
    else if (type == &k_sibling_died && c->ops->sibling_died != NULL)
        c->ops->sibling_died(c->userdata, (CountersRole)m.died.role, m.died.pid);
    else if (type == &k_drain)
        on_drain(c, m.drain.timeout_ms);
    else if (type == &k_undrain && c->ops->undrain != NULL)
        c->ops->undrain(c->userdata);
    else if (type == &k_stop && c->ops->stop != NULL)
        c->ops->stop(c->userdata);
    else if (type == &k_stop)
        loop_quit(c->loop, 0);
    else if (type == &k_reload)
        on_reload(c, fd);
    else if (type == &k_accept_clock)
        on_accept_clock(c);
    arena_deinit(&arena);
}

static void on_super(void *userdata, uint32_t events UNUSED)
{
    Child *c = userdata;
    uint8_t data[CHILD_MESSAGE_MAX / 8];
    int fds[SOCK_FDS_MAX];
    size_t n_fds = ARRAY_SIZE(fds);
    ssize_t n = sock_recv_fds(c->super_fd, data, sizeof(data), fds, &n_fds);

    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        jlog(LOG_ERR, "the supervisor is gone; leat-%s ends", role_names[c->role]);
        _exit(EXIT_ORPHAN);
    }
    dispatch(c, data, (size_t)n, n_fds > 0 ? fds[0] : -1);
    for (size_t i = 0; i < n_fds; i++)
        (void)close(fds[i]);
}

static int start_on_loop(Child *c)
{
    int r = fcntl(c->super_fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0 ? -errno : 0;

    if (r == 0)
        r = loop_add_fd(c->loop, c->super_fd, EPOLLIN, on_super, c, &c->super_source);
    if (r == 0)
        r = loop_add_timer(c->loop, beat, c, &c->heartbeat);
    if (r == 0)
        beat(c);
    return r;
}

int child_init(int argc,
               char **argv,
               CountersRole role,
               Loop *loop,
               const ChildOps *ops,
               void *userdata,
               Child **ret)
{
    Child *c = calloc(1, sizeof(*c));
    ConfError error = {""};
    int r;

    assert(role > ROW_SUPERVISOR && role < ROW_COUNT);
    if (c == NULL)
        return -ENOMEM;
    *c = (Child){.role = role,
                 .loop = loop,
                 .ops = ops,
                 .userdata = userdata,
                 .super_fd = -1,
                 .config_fd = -1,
                 .counters_fd = -1,
                 .client_fd = -1};
    parse_arguments(c, argc, argv);
    tie_to_supervisor(c);
    set_process(c);
    r = read_config(c->config_fd, &c->conf, &error);
    if (r < 0)
        give_up(EXIT_CONFIG, "leat-%s: %s", role_names[role], error.text);
    base_closep(&c->config_fd);
    open_log(c);
    if (strcmp(child_build_id(c), conf_get(&c->conf, "leat.build.id", "")) != 0)
        child_fail(
            c, EXIT_CONFIG,
            "leat-%s is of build %s, its supervisor of build %s: install both from one build",
            role_names[role], child_build_id(c), conf_get(&c->conf, "leat.build.id", "(none)"));
    r = counters_open_fd(c->counters_fd, role, &c->counters);
    if (r < 0)
        child_fail(c, EXIT_CONFIG, "the counters file does not fit this build: %s", strerror(-r));
    counter_set(child_row(c), COUNTER_STARTED_MS, (uint64_t)clock_wall_ms());
    r = start_on_loop(c);
    if (r < 0) {
        (void)child_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

Child *child_free(Child *child)
{
    if (child == NULL)
        return NULL;
    child->super_source = loop_fd_free(child->super_source);
    child->heartbeat = loop_timer_free(child->heartbeat);
    child->counters = counters_close(child->counters);
    conf_deinit(&child->conf);
    conf_deinit(&child->retired);
    base_closep(&child->super_fd);
    base_closep(&child->client_fd);
    for (size_t i = 0; i < child->n_kafka; i++)
        base_closep(&child->kafka_fds[i]);
    free(child);
    return NULL;
}

const Conf *child_conf(const Child *child)
{
    return &child->conf;
}

CountersRow *child_row(const Child *child)
{
    return counters_row(child->counters, child->role);
}

int child_client_fd(const Child *child)
{
    return child->client_fd;
}

int child_kafka_fd(const Child *child, size_t i, const char **ret_listener)
{
    if (i >= child->n_kafka)
        return -1;
    if (ret_listener != NULL)
        *ret_listener = child->kafka_names[i];
    return child->kafka_fds[i];
}

const char *child_build_id(const Child *child UNUSED)
{
    return build_id();
}

int child_ready(Child *child)
{
    KChildReady m = {.role = (int8_t)child->role,
                     .pid = (int32_t)getpid(),
                     .build_id = k_str(child_build_id(child))};

    return send_message(child, &k_child_ready, &m);
}

int child_status(Child *child, const char *text, int64_t extend_timeout_ms)
{
    KChildStatus m = {.text = k_str(text), .extend_timeout_ms = extend_timeout_ms};

    counter_add(child_row(child), COUNTER_HEARTBEAT, 1);
    return send_message(child, &k_child_status, &m);
}

int child_drained(Child *child, bool ok)
{
    KDrained m = {.ok = ok};

    return send_message(child, &k_drained, &m);
}

void child_fail(Child *child, int code, const char *fmt, ...)
{
    char why[1024];
    KChildFailed m = {
        .why = {why, 0}
    };
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(why, sizeof(why), fmt, args);
    va_end(args);
    m.why = k_str(why);
    (void)send_message(child, &k_child_failed, &m); /* the exit status says it too */
    jlog(LOG_CRIT, "%s", why);
    _exit(code);
}
