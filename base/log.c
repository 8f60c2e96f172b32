/*
 * jlog: one event = one set of fields = one datagram to the journal or one JSON line. A JSON line is written by a single
 * write() to a descriptor in append mode, so the processes of a node may share one file.
 *
 * Rotation of a shared file: whoever finds it over the limit takes flock() on it, looks again whether the path still names
 * this file, and renames FILE.2 -> FILE.3, FILE.1 -> FILE.2, FILE -> FILE.1. All others see before their next line that the
 * path names another file and open that. Logging never blocks on a full disk and never fails its caller: a line that cannot
 * be written is dropped.
 */

#include "base/log.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#include "base/clock.h"
#include "base/text.h"

#define MESSAGE_SIZE_MAX 2048
#define LINE_SIZE_MAX    6144
#define FILE_SIZE_MAX    (16 << 20)
#define FILES_KEPT       4
#define FIELDS_FIXED     6 /* MESSAGE PRIORITY LEAT_ROLE LEAT_INSTANCE MESSAGE_ID ERRNO */

static struct {
    char role[32], instance[64], path[PATH_MAX];
    bool to_journal;
    int fd;
    _Atomic int level;
    pthread_mutex_t lock; /* fd and rotation */
} sink = {.fd = STDERR_FILENO, .level = LOG_INFO, .lock = PTHREAD_MUTEX_INITIALIZER};

static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    struct stat st;

    if (stream == NULL || sscanf(stream, "%llu:%llu", &device, &inode) != 2 ||
        fstat(STDERR_FILENO, &st) < 0)
        return false;
    return st.st_dev == device && st.st_ino == inode;
}

void jlog_init(const char *role, const char *instance, LogSink which)
{
    (void)snprintf(sink.role, sizeof(sink.role), "%s", role);
    (void)snprintf(sink.instance, sizeof(sink.instance), "%s", instance == NULL ? "" : instance);
    sink.to_journal = which == LOG_SINK_JOURNAL || (which == LOG_SINK_AUTO && stderr_is_journal());
}

void jlog_set_level(int priority)
{
    assert(priority >= LOG_EMERG && priority <= LOG_DEBUG);
    sink.level = priority;
}

static int open_log(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);

    return fd < 0 ? -errno : fd;
}

int jlog_open_file(const char *path)
{
    int fd;

    if (strlen(path) + 3 > sizeof(sink.path))
        return -ENAMETOOLONG;
    fd = open_log(path);
    if (fd < 0)
        return fd;
    (void)pthread_mutex_lock(&sink.lock);
    if (sink.fd != STDERR_FILENO)
        (void)close(sink.fd);
    sink.fd = fd;
    sink.to_journal = false;
    (void)snprintf(sink.path, sizeof(sink.path), "%s", path);
    (void)pthread_mutex_unlock(&sink.lock);
    return 0;
}

static bool path_is_fd(int fd)
{
    struct stat a, b;

    return fstat(fd, &a) == 0 && stat(sink.path, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

static void shift_files(void)
{
    static char from[PATH_MAX + 4],
        to[PATH_MAX + 4]; /* guarded by sink.lock; too large for a caller's stack */

    for (int i = FILES_KEPT - 1; i > 0; i--) {
        if (i == 1)
            (void)snprintf(from, sizeof(from), "%s", sink.path);
        else
            (void)snprintf(from, sizeof(from), "%s.%d", sink.path, i - 1);
        (void)snprintf(to, sizeof(to), "%s.%d", sink.path, i);
        (void)rename(from, to); /* ENOENT: not that many yet */
    }
}

/* With sink.lock held. */
static void follow_file(void)
{
    struct stat st;
    int fd;

    if (path_is_fd(sink.fd)) {
        if (fstat(sink.fd, &st) < 0 || st.st_size < FILE_SIZE_MAX ||
            flock(sink.fd, LOCK_EX | LOCK_NB) < 0)
            return;
        if (path_is_fd(sink.fd)) /* nobody rotated between the look and the lock */
            shift_files();
    }
    fd = open_log(sink.path);
    if (fd < 0)
        return;           /* go on with the old one */
    (void)close(sink.fd); /* drops the flock */
    sink.fd = fd;
}

typedef struct Line {
    char text[LINE_SIZE_MAX];
    size_t n;
} Line;

static void put_char(Line *l, char c)
{
    if (l->n < sizeof(l->text) - 2) /* room for '}' and newline */
        l->text[l->n++] = c;
}

static void put_json(Line *l, const char *s)
{
    size_t left = MIN(strlen(s), (size_t)MESSAGE_SIZE_MAX);
    bool valid = utf8_is_valid(s, left);

    put_char(l, '"');
    for (; left > 0 && l->n < sizeof(l->text) - 16; s++, left--) {
        unsigned char c = (unsigned char)*s;

        if (c == '"' || c == '\\') {
            put_char(l, '\\');
            put_char(l, (char)c);
        } else if (c < 0x20 || c == 0x7f || (c >= 0x80 && !valid)) {
            char escaped[8];

            (void)snprintf(escaped, sizeof(escaped), "\\u%04x", c);
            for (const char *e = escaped; *e != '\0'; e++)
                put_char(l, *e);
        } else {
            put_char(l, (char)c);
        }
    }
    while (valid && left > 0 && l->n > 0 &&
           ((unsigned char)*s & 0xc0) == 0x80) { /* cut inside a character */
        l->n--;
        s--;
    }
    put_char(l, '"');
}

static void put_pair(Line *l, const char *name, const char *value)
{
    if (l->n + strlen(name) + 32 > sizeof(l->text))
        return; /* whole pairs only, so that the line stays JSON */
    put_char(l, l->n == 0 ? '{' : ',');
    put_json(l, name);
    put_char(l, ':');
    put_json(l, value);
}

static void format_time(char *out, size_t size)
{
    int64_t now_ms = clock_wall_ms();
    time_t seconds = (time_t)(now_ms / 1000);
    struct tm tm;
    size_t n;

    (void)gmtime_r(&seconds, &tm);
    n = strftime(out, size, "%Y-%m-%dT%H:%M:%S", &tm);
    (void)snprintf(out + n, size - n, ".%03dZ", (int)(now_ms % 1000));
}

static void write_json(const LogField *fields, size_t n)
{
    Line line = {.n = 0};
    char text[40];

    format_time(text, sizeof(text));
    put_pair(&line, "TIME", text);
    (void)snprintf(text, sizeof(text), "%d", (int)getpid());
    put_pair(&line, "_PID", text);
    for (size_t i = 0; i < n; i++)
        put_pair(&line, fields[i].name, fields[i].value);
    line.text[line.n++] = '}';
    line.text[line.n++] = '\n';
    (void)pthread_mutex_lock(&sink.lock);
    if (sink.path[0] != '\0')
        follow_file();
    (void)!write(sink.fd, line.text, line.n);
    (void)pthread_mutex_unlock(&sink.lock);
}

/* The journal wants each NAME=value in one piece: they are packed behind each other into one buffer. */
static void write_journal(const LogField *fields, size_t n)
{
    struct iovec iov[FIELDS_FIXED + LOG_FIELDS_MAX];
    char text[LINE_SIZE_MAX];
    size_t used = 0;
    int n_iov = 0;

    assert(n <= ARRAY_SIZE(iov));
    for (size_t i = 0; i < n && used + 64 < sizeof(text);
         i++) { /* MESSAGE comes first, so it is never left out */
        int size =
            snprintf(text + used, sizeof(text) - used, "%s=%s", fields[i].name, fields[i].value);

        iov[n_iov].iov_base = text + used;
        iov[n_iov].iov_len = MIN((size_t)size, sizeof(text) - used - 1);
        used += iov[n_iov++].iov_len;
    }
    (void)sd_journal_sendv(iov, n_iov);
}

void jlog_write(int priority,
                const char *message_id,
                int error,
                const LogField *fields,
                size_t n_fields,
                const char *fmt,
                ...)
{
    LogField all[FIELDS_FIXED + LOG_FIELDS_MAX];
    char message[MESSAGE_SIZE_MAX], number[16], priority_text[4];
    int saved = errno;
    size_t n = 0;
    va_list args;

    assert(n_fields <= LOG_FIELDS_MAX);
    if (priority > sink.level)
        return;
    va_start(args, fmt);
    (void)vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    if (error != 0) {
        size_t used = strlen(message);

        (void)snprintf(message + used, sizeof(message) - used, ": %s", strerror(error));
    }
    (void)snprintf(priority_text, sizeof(priority_text), "%d", priority & 7);
    (void)snprintf(number, sizeof(number), "%d", error);
    all[n++] = (LogField){"MESSAGE", message};
    all[n++] = (LogField){"PRIORITY", priority_text};
    all[n++] = (LogField){"LEAT_ROLE", sink.role};
    if (sink.instance[0] != '\0')
        all[n++] = (LogField){"LEAT_INSTANCE", sink.instance};
    if (message_id != NULL)
        all[n++] = (LogField){"MESSAGE_ID", message_id};
    if (error != 0)
        all[n++] = (LogField){"ERRNO", number};
    for (size_t i = 0; i < n_fields; i++)
        if (fields[i].value != NULL)
            all[n++] = fields[i];
    if (sink.to_journal)
        write_journal(all, n);
    else
        write_json(all, n);
    errno = saved;
}

bool jlog_limit_pass(LogLimit *limit)
{
    int64_t now_ns = clock_mono_ns();

    if (now_ns < __atomic_load_n(&limit->next_ns, __ATOMIC_RELAXED)) {
        (void)__atomic_add_fetch(&limit->suppressed, 1, __ATOMIC_RELAXED);
        return false;
    }
    /* two threads may pass together; one message too many does no harm */
    __atomic_store_n(&limit->next_ns, now_ns + NS_PER_S, __ATOMIC_RELAXED);
    {
        uint64_t n = __atomic_exchange_n(&limit->suppressed, 0, __ATOMIC_RELAXED);

        if (n > 0)
            jlog(LOG_NOTICE, "%llu messages like the next one were suppressed",
                 (unsigned long long)n);
    }
    return true;
}
