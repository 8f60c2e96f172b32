/*
 * Stands in for a daemon: the role is in its name (leat-broker), its manners in the file $LEAT_FAKE_DIR/ROLE, read at each
 * start: "exit N", "fail N WHY" (child_fail), "crash" (SIGKILL), "slow" (reports recovery, ready after 150 ms), "hang"
 * (ready, then stops itself), "stubborn" (refuses reloads and clocks), "lame" (does not answer a drain), "deaf" (ignores
 * Stop), "doubt" (does not believe the clock until told). Everything it is told it appends to $LEAT_FAKE_DIR/ROLE.log.
 */

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "meta/child.h"

static Child *child;
static Loop *loop;
static CountersRole role;
static char manner[256], log_path[512];

static void PRINTF_LIKE(1, 2) note(const char *fmt, ...)
{
    char text[512];
    va_list args;
    int fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    va_start(args, fmt);
    vsnprintf(text, sizeof(text) - 1, fmt, args);
    va_end(args);
    strcat(text, "\n");
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        abort();
    close(fd);
}

static bool is(const char *word)
{
    return strncmp(manner, word, strlen(word)) == 0;
}

static void on_siblings(void *u UNUSED, const ChildSibling *children, size_t n)
{
    char text[256] = "siblings";

    for (size_t i = 0; i < n; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), " %s%s",
                 child_role_name(children[i].role), children[i].ready ? "+" : "-");
    note("%s", text);
}

static void on_died(void *u UNUSED, CountersRole who, pid_t pid UNUSED)
{
    note("died %s", child_role_name(who));
}

static void on_drain(void *u UNUSED, int64_t timeout_ms)
{
    note("drain %d", timeout_ms > 0);
    if (!is("lame"))
        child_drained(child, true);
}

static void on_undrain(void *u UNUSED)
{
    note("undrain");
}

static void on_stop(void *u UNUSED)
{
    note("stop");
    if (!is("deaf"))
        loop_quit(loop, is("dirty") ? 3 : 0);
}

static int on_reload(void *u UNUSED, const Conf *conf, char *why, size_t why_size)
{
    note("reload %s %s", conf_get(conf, "log.level", "-"), conf_get(conf, "listeners", "-"));
    if (!is("stubborn"))
        return 0;
    snprintf(why, why_size, "not in the mood");
    return -1;
}

static int on_accept_clock(void *u UNUSED, char *why, size_t why_size)
{
    note("accept-clock");
    if (is("stubborn")) {
        snprintf(why, why_size, "not in the mood");
        return -1;
    }
    counter_set(child_row(child), COUNTER_CLOCK_DISTRUSTED, 0);
    return 0;
}

static void become_ready(void *u UNUSED)
{
    const Conf *c = child_conf(child);
    const char *listener = "";

    child_kafka_fd(child, 0, &listener);
    note("ready previous=%s node=%s client=%d kafka=%s level=%s listeners=%s",
         conf_get(c, "leat.previous.state", ""), conf_get(c, "leat.node.id", ""),
         child_client_fd(child) >= 0, listener, conf_get(c, "log.level", "-"),
         conf_get(c, "listeners", ""));
    counter_set(child_row(child), COUNTER_CLOCK_DISTRUSTED, is("doubt"));
    child_ready(child);
    if (is("hang"))
        raise(SIGSTOP);
}

static void read_manner(void)
{
    const char *dir = getenv("LEAT_FAKE_DIR");
    char path[256];
    Buf b = BUF_NULL;

    snprintf(path, sizeof(path), "%s/%s", dir, child_role_name(role));
    snprintf(log_path, sizeof(log_path), "%s.log", path);
    if (fs_read_file(path, sizeof(manner) - 1, &b) == 0)
        memcpy(manner, b.data, b.size + 1);
    buf_deinit(&b);
}

int main(int argc, char **argv)
{
    static const ChildOps ops = {.siblings = on_siblings,
                                 .sibling_died = on_died,
                                 .drain = on_drain,
                                 .undrain = on_undrain,
                                 .stop = on_stop,
                                 .reload = on_reload,
                                 .accept_clock = on_accept_clock};
    const char *name = strrchr(argv[0], '/');
    LoopTimer *timer;
    char *rest;
    long code;

    role = child_role_parse((name == NULL ? argv[0] : name + 1) + strlen("leat-"));
    read_manner();
    if (loop_new(&loop) < 0 || child_init(argc, argv, role, loop, &ops, NULL, &child) < 0)
        return 1;
    code = strtol(strchr(manner, ' ') == NULL ? "" : strchr(manner, ' '), &rest, 10);
    if (is("exit"))
        return (int)code;
    if (is("fail"))
        child_fail(child, (int)code, "%s", rest + (*rest == ' '));
    if (is("crash"))
        raise(SIGKILL);
    if (loop_add_timer(loop, become_ready, NULL, &timer) < 0)
        return 1;
    if (is("slow"))
        child_status(child, "recovering 3 of 7 logs", 20000);
    loop_timer_set(timer, clock_mono_ns() + (is("slow") ? 150 * NS_PER_MS : 0));
    code = loop_run(loop);
    child_free(child);
    loop_free(loop);
    return (int)code;
}
