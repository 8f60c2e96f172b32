/*
 * mqctl debug bundle: what somebody needs who was not there. Everything is gathered into a directory, listed in
 * MANIFEST.json, packed by tar and removed again. Records are never included; secrets in configuration files are redacted.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/build_id.h"
#include "base/clock.h"
#include "base/fs.h"
#include "mqctl/node.h"
#include "mqctl/output.h"
#include "mqctl/progress.h"
#include "mqctl/topics.h"

#define TAIL_MAX (32u << 20)
#define STEPS    8

typedef struct Bundle {
    Mq *m;
    const char *dir, *name;
    json_t *files, *problems;
    int redacted;
    int64_t lines;
    Progress progress;
    int step;
} Bundle;

/* ---- putting things in --------------------------------------------------------------------------------------------- */

static void problem(Bundle *b, const char *what, const char *why)
{
    json_array_append_new(b->problems, json_string(mq_printf(b->m, "%s: %s", what, why)));
}

static void put(Bundle *b, const char *name, const void *data, size_t size)
{
    const char *path = mq_printf(b->m, "%s/%s", b->dir, name);
    char *slash = strrchr(path + strlen(b->dir) + 1, '/');
    json_t *row = json_object();
    int r = 0;

    if (slash != NULL)
        r = fs_mkdir_p(mq_printf(b->m, "%.*s", (int)(slash - path), path), 0700);
    r = r < 0 ? r : fs_write_file_atomic(path, data, size, 0600);
    if (r < 0) {
        problem(b, name, strerror(-r));
        json_decref(row);
        return;
    }
    doc_set_text(row, "file", name);
    doc_set(row, "bytes", json_integer((json_int_t)size));
    json_array_append_new(b->files, row);
}

static void put_json(Bundle *b, const char *name, json_t *doc)
{
    char *text = doc != NULL ? json_dumps(doc, JSON_INDENT(2)) : NULL;

    if (text != NULL)
        put(b, name, text, strlen(text));
    free(text);
    json_decref(doc);
}

static void put_file(Bundle *b, const char *name, const char *path)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    int r = fs_read_file(path, 4 << 20, &text);

    if (r < 0)
        problem(b, path, strerror(-r));
    else
        put(b, name, text.data, text.size);
}

/* The end of a log that may be large. */
static void put_tail(Bundle *b, const char *name, const char *path)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0, from = MAX(size - (off_t)TAIL_MAX, 0);
    const uint8_t *p, *end;
    ssize_t n;

    if (fd < 0 || buf_reserve(&text, (size_t)(size - from) + 1) < 0) {
        problem(b, path, strerror(errno));
        return;
    }
    n = pread(fd, text.data, (size_t)(size - from), from);
    close(fd);
    end = text.data + MAX(n, 0);
    p = end;
    for (int64_t left = b->lines; p > text.data; p--)
        if (p[-1] == '\n' && p != end && --left <= 0)
            break;
    put(b, name, p, (size_t)(end - p));
}

static void step(Bundle *b, const char *what)
{
    b->step++;
    progress_update(&b->progress, b->step, what);
}

/* ---- parts --------------------------------------------------------------------------------------------------------- */

static bool is_secret(const char *key, size_t size)
{
    static const char *const words[] = {"password", "secret", "jaas", "credential", "token", "private.key", "keystore.key"};

    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (memmem(key, size, words[i], strlen(words[i])) != NULL)
            return true;
    return false;
}

/* Line by line, so that comments and mistakes stay as they are. */
static void put_conf(Bundle *b, const char *name, const char *path)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL, out = BUF_NULL;
    bool hidden = false;
    const char *p, *end;
    int r = fs_read_file(path, 4 << 20, &text);

    if (r < 0) {
        problem(b, path, strerror(-r));
        return;
    }
    for (p = (char *)text.data, end = p + text.size; p < end;) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        size_t n = newline != NULL ? (size_t)(newline - p) : (size_t)(end - p);
        const char *equal = memchr(p, '=', n);
        bool continued = n > 0 && p[n - 1] == '\\';

        if (hidden) { /* the rest of a secret that goes on over several lines */
            hidden = continued;
        } else if (equal != NULL && is_secret(p, (size_t)(equal - p))) {
            (void)buf_printf(&out, "%.*s= [redacted]\n", (int)(equal - p), p);
            b->redacted++;
            hidden = continued;
        } else {
            (void)buf_printf(&out, "%.*s\n", (int)n, p);
        }
        p += n + 1;
    }
    put(b, name, out.data, out.size);
}

static void gather_conf(Bundle *b)
{
    const Target *t = &b->m->target;
    const char *dir = mq_printf(b->m, "%.*s/conf.d", (int)(strrchr(t->conf_path, '/') - t->conf_path), t->conf_path);
    DIR *d = opendir(dir);

    put_conf(b, "conf/leat.conf", t->conf_path);
    if (d == NULL)
        return;
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (strlen(e->d_name) > 5 && strcmp(e->d_name + strlen(e->d_name) - 5, ".conf") == 0)
            put_conf(b, mq_printf(b->m, "conf/conf.d/%s", e->d_name), mq_printf(b->m, "%s/%s", dir, e->d_name));
    closedir(d);
}

static void gather_supervisor(Bundle *b)
{
    static const char *const verbs[] = {"status", "config"};
    json_t *body;
    char *why;

    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
        int r = control_try(b->m, &b->m->target, verbs[i], NULL, 0, 5000, &body, &why);
        if (body != NULL)
            put_json(b, mq_printf(b->m, "%s.json", verbs[i]), body);
        else if (r != 0)
            problem(b, verbs[i], why);
    }
    body = counters_read(b->m, &b->m->target);
    if (body != NULL)
        put_json(b, "counters.json", body);
    else
        problem(b, "counters", "the counters file cannot be read");
}

static void put_process(Bundle *b, const char *role, int64_t pid)
{
    static const char *const names[] = {"status", "limits", "stat", "wchan", "smaps_rollup", "cmdline"};

    for (size_t i = 0; pid > 1 && i < ARRAY_SIZE(names); i++) {
        const char *path = mq_printf(b->m, "/proc/%lld/%s", (long long)pid, names[i]);
        if (access(path, R_OK) == 0)
            put_file(b, mq_printf(b->m, "process/%s/%s", role, names[i]), path);
    }
}

static void gather_processes(Bundle *b)
{
    json_t *counters = counters_read(b->m, &b->m->target), *row;
    const char *role;

    json_object_foreach(counters, role, row)
        put_process(b, role, doc_i64(row, "pid", 0));
    json_decref(counters);
}

static void gather_machine(Bundle *b)
{
    static const char *const files[] = {"/proc/meminfo", "/proc/loadavg", "/proc/diskstats", "/proc/mounts", "/proc/pressure/io",
                                        "/proc/pressure/memory", "/proc/sys/vm/dirty_ratio", "/proc/sys/vm/max_map_count",
                                        "/etc/os-release", "/proc/cpuinfo"};
    struct utsname u;

    for (size_t i = 0; i < ARRAY_SIZE(files); i++)
        if (access(files[i], R_OK) == 0)
            put_file(b, mq_printf(b->m, "machine%s", files[i]), files[i]);
    if (uname(&u) == 0) {
        const char *text = mq_printf(b->m, "%s %s %s %s\n", u.sysname, u.release, u.version, u.machine);
        put(b, "machine/uname", text, strlen(text));
    }
}

static void gather_topics(Bundle *b)
{
    KMetadataResponse response;
    json_t *doc, *list;

    if (!target_is_running(b->m, &b->m->target) || topics_metadata(b->m, NULL, -1, &response) != 0) {
        problem(b, "topics", "the broker does not answer");
        return;
    }
    doc = json_object();
    list = json_array();
    for (int32_t i = 0; i < response.topics.n; i++) {
        json_t *row = json_object();

        doc_set(row, "topic", doc_bytes(response.topics.items[i].name.ptr, (size_t)MAX(response.topics.items[i].name.len, 0)));
        doc_set(row, "partitions", json_integer(response.topics.items[i].partitions.n));
        json_array_append_new(list, row);
    }
    doc_set(doc, "topics", list);
    put_json(b, "topics.json", doc);
}

/* Names and sizes of the data directory: what is there, not what is in it. */
static void list_dir(Bundle *b, const char *path, const char *shown, int depth, Buf *out)
{
    DIR *d = opendir(path);

    if (d == NULL)
        return;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        const char *inner = mq_printf(b->m, "%s/%s", path, e->d_name), *name = mq_printf(b->m, "%s/%s", shown, e->d_name);
        struct stat st;

        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || lstat(inner, &st) < 0 || out->size > TAIL_MAX)
            continue;
        (void)buf_printf(out, "%06o %5u %12lld %12lld %lld %s\n", st.st_mode, st.st_uid, (long long)st.st_size,
                         (long long)st.st_blocks * 512, (long long)st.st_mtime, name);
        if (S_ISDIR(st.st_mode) && depth < 3)
            list_dir(b, inner, name, depth + 1, out);
    }
    closedir(d);
}

static void gather_files(Bundle *b)
{
    static const char *const small[] = {"meta.properties", "log/meta.properties", "log/recovery-point-offset-checkpoint",
                                        "log/log-start-offset-checkpoint", "log/replication-offset-checkpoint"};
    _cleanup_(buf_deinit) Buf listing = BUF_NULL;

    list_dir(b, b->m->target.data_dir, "", 0, &listing);
    put(b, "data/listing", listing.data, listing.size);
    for (size_t i = 0; i < ARRAY_SIZE(small); i++) {
        const char *path = mq_printf(b->m, "%s/%s", b->m->target.data_dir, small[i]);
        if (access(path, R_OK) == 0)
            put_file(b, mq_printf(b->m, "data/%s", small[i]), path);
    }
}

/* stdout of a program into a file of the bundle. */
static void put_output(Bundle *b, const char *name, const char *const *argv)
{
    const char *path = mq_printf(b->m, "%s/%s", b->dir, name);
    posix_spawn_file_actions_t actions;
    struct stat st;
    pid_t pid;
    int status, e;
    json_t *row;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    e = posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (e != 0 || waitpid(pid, &status, 0) < 0 || stat(path, &st) < 0) {
        problem(b, argv[0], strerror(e ? e : errno));
        return;
    }
    row = json_object();
    doc_set_text(row, "file", name);
    doc_set(row, "bytes", json_integer(st.st_size));
    json_array_append_new(b->files, row);
}

static void gather_logs(Bundle *b)
{
    const Target *t = &b->m->target;
    DIR *d;

    if (t->kind == TARGET_INSTANCE && access("/run/systemd/system", F_OK) == 0) {
        const char *argv[] = {"journalctl", "--no-pager", "-o", "json", "-u", mq_printf(b->m, "leat@%s.service", t->instance), "-n",
                              mq_printf(b->m, "%lld", (long long)b->lines), NULL};
        put_output(b, "journal.jsonl", argv);
        return;
    }
    d = opendir(t->log_dir);
    if (d == NULL) {
        problem(b, t->log_dir, strerror(errno));
        return;
    }
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.')
            put_tail(b, mq_printf(b->m, "log/%s", e->d_name), mq_printf(b->m, "%s/%s", t->log_dir, e->d_name));
    closedir(d);
}

/* ---- packing ------------------------------------------------------------------------------------------------------- */

static void put_manifest(Bundle *b)
{
    json_t *doc = json_object();

    doc_set_text(doc, "node", b->m->target.name);
    doc_set_text(doc, "mqctl_version", leat_version());
    doc_set_text(doc, "mqctl_build", build_id());
    doc_set(doc, "made_ms", json_integer(clock_wall_ms()));
    doc_set(doc, "secrets_redacted", json_integer(b->redacted));
    doc_set(doc, "records", json_string("none"));
    doc_set(doc, "files", json_incref(b->files));
    doc_set(doc, "problems", json_incref(b->problems));
    put_json(b, "MANIFEST.json", doc);
}

static bool have_program(Mq *m, const char *name)
{
    const char *path = getenv("PATH");

    for (path = path != NULL ? path : "/usr/bin:/bin"; *path != '\0'; path += strcspn(path, ":"), path += *path == ':')
        if (access(mq_printf(m, "%.*s/%s", (int)strcspn(path, ":"), path, name), X_OK) == 0)
            return true;
    return false;
}

static int pack(Bundle *b, const char *to, const char **ret_path)
{
    Mq *m = b->m;
    bool zstd = have_program(m, "zstd");
    const char *path = mq_printf(m, "%s/%s.tar.%s", to, b->name, zstd ? "zst" : "gz");
    const char *argv[] = {"tar", "-C", to, zstd ? "--zstd" : "-z", "--owner=0", "--group=0", "-cf", path, b->name, NULL};
    int r = run_program(m, argv);

    *ret_path = path;
    return r == 0 ? 0 : mq_fail(m, MQ_E_FAILED, "tar ended with status %d", r);
}

static void print_bundle(Mq *m, json_t *doc)
{
    (void)m;
    printf("%s  %lld bytes, %lld files; secrets redacted: %lld; records: none; problems: %lld, see MANIFEST.json\n",
           doc_text(doc, "path", ""), (long long)doc_i64(doc, "bytes", 0), (long long)doc_i64(doc, "files", 0),
           (long long)doc_i64(doc, "secrets_redacted", 0), (long long)doc_i64(doc, "problems", 0));
}

static int finish(Bundle *b, const char *to)
{
    struct stat st = {0};
    const char *path;
    json_t *doc;
    int r;

    put_manifest(b);
    r = pack(b, to, &path);
    progress_end(&b->progress);
    if (r != 0)
        return r;
    (void)stat(path, &st);
    doc = json_object();
    doc_set_text(doc, "path", path);
    doc_set(doc, "bytes", json_integer(st.st_size));
    doc_set(doc, "files", json_integer((json_int_t)json_array_size(b->files)));
    doc_set(doc, "secrets_redacted", json_integer(b->redacted));
    doc_set(doc, "problems", json_integer((json_int_t)json_array_size(b->problems)));
    return output_doc(b->m, doc, print_bundle);
}

int debug_bundle_run(Mq *m)
{
    static void (*const parts[])(Bundle *) = {gather_conf, gather_supervisor, gather_processes, gather_machine,
                                              gather_topics, gather_files, gather_logs};
    static const char *const names[] = {"configuration", "supervisor", "processes", "machine", "topics", "files", "logs"};
    const char *to = opt(m, "to");
    Bundle b = {.m = m, .lines = 5000};
    time_t now = time(NULL);
    struct tm tm;
    char stamp[32];
    int r = target_need_node(m);

    static_assert(ARRAY_SIZE(parts) == ARRAY_SIZE(names), "one name per part");
    r = r ? r : opt_i64(m, "lines", 1, 10000000, &b.lines);
    if (r != 0)
        return r;
    to = to != NULL ? to : ".";
    gmtime_r(&now, &tm);
    strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%SZ", &tm);
    b.name = mq_printf(m, "leat-bundle-%s-%s", m->target.kind == TARGET_SANDBOX ? "sandbox" : m->target.instance, stamp);
    b.dir = mq_printf(m, "%s/%s", to, b.name);
    if (mkdir(b.dir, 0700) < 0)
        return mq_fail_errno(m, -errno, "%s", b.dir);
    b.files = json_array();
    b.problems = json_array();
    progress_begin(&b.progress, m, "bundle", STEPS, false);
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        step(&b, names[i]);
        parts[i](&b);
    }
    r = finish(&b, to);
    (void)fs_remove_tree(b.dir);
    json_decref(b.files);
    json_decref(b.problems);
    return r;
}
