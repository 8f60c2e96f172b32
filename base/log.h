#pragma once

/*
 * Logging for the shells (daemons, mqctl). Cores and libraries never log: they return errors or effects.
 *
 * Sink is chosen once: the journal's native socket when stderr is the journal (JOURNAL_STREAM matches), else JSON lines
 * on stderr or in a file that the caller rotates. Fields are the same in both: MESSAGE, PRIORITY, LEAT_ROLE,
 * LEAT_INSTANCE, MESSAGE_ID, ERRNO and what the caller adds (LEAT_TOPIC, LEAT_PARTITION, LEAT_GROUP, ...).
 * Thread-safe after log_init().
 */

#include "base/compiler.h"
#include <errno.h>
#include <syslog.h>

typedef enum LogSink { LOG_SINK_AUTO, LOG_SINK_JOURNAL, LOG_SINK_JSON } LogSink;

typedef struct LogField {
    const char *name;  /* upper case, LEAT_... */
    const char *value; /* borrowed for the call */
} LogField;

#define LOG_FIELDS_MAX 8

void jlog_init(const char *role, const char *instance, LogSink sink);
void jlog_set_level(int priority);
/* Rotated file sink: 16 MiB x 4 (D32). Replaces stderr. Return: 0 or negative errno. */
int jlog_open_file(const char *path);

/**
 * jlog_write() - one log event
 * @priority: LOG_ERR..LOG_DEBUG (syslog.h)
 * @message_id: 32 hex digits of a catalog entry, or NULL
 * @error: errno value (positive) attached as ERRNO and appended as text, or 0
 */
void jlog_write(int priority,
                const char *message_id,
                int error,
                const LogField *fields,
                size_t n_fields,
                const char *fmt,
                ...) PRINTF_LIKE(6, 7);

#define jlog(prio, ...)             jlog_write((prio), NULL, 0, NULL, 0, __VA_ARGS__)
#define jlog_errno(prio, err, ...)  jlog_write((prio), NULL, (err) < 0 ? -(err) : (err), NULL, 0, __VA_ARGS__)

/* At most one message per second for each call site; the next one says how many were suppressed. */
#define jlog_limited(prio, ...)                                                                    \
    do {                                                                                           \
        static LogLimit log_limit_here;                                                            \
        if (jlog_limit_pass(&log_limit_here))                                                      \
            jlog((prio), __VA_ARGS__);                                                             \
    } while (0)

typedef struct LogLimit {
    int64_t next_ns;
    uint64_t suppressed;
} LogLimit;
bool jlog_limit_pass(LogLimit *limit);
