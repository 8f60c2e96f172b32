/*
 * See datadir.h. The lock file is never removed: removing it would let two supervisors lock two files of one name.
 *
 * Two meta.properties, so that either directory may be lost: the node keeps its cluster id when the log's disk is
 * replaced (the new directory id tells the controller so, D4), and the log keeps it when the metadata is lost.
 */

#include "supervisor/datadir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/build_id.h"
#include "base/clock.h"
#include "base/fs.h"
#include "meta/child.h"
#include "meta/config_keys.h"

#define EXIT_DATA    65
#define EXIT_STORAGE 74
#define EXIT_CONFIG  78

#define PROPERTIES     "meta.properties"
#define PROPERTIES_MAX 65536
#define MARKER         "clean-shutdown"
#define FORMAT                                                                                     \
    1 /* of the data directory; a larger one was written by a version that we cannot follow */
#define LOCK_PATIENCE_MS 5000
#define LOCK_STEP_NS     20000000

/* Does the process that took the lock still live? A zombie does not. */
static bool holder_lives(int fd)
{
    _cleanup_(base_closep) int pidfd = -1;
    char text[16] = "";
    struct pollfd p = {.events = POLLIN};
    int64_t pid;
    size_t n;

    if (fs_pread_all(fd, text, sizeof(text) - 1, 0, &n) < 0 || parse_i64(text, &pid) < 0 ||
        pid <= 0 || pid > INT32_MAX)
        return false;
    pidfd = pidfd_open((pid_t)pid, 0);
    p.fd = pidfd;
    return pidfd >= 0 && poll(&p, 1, 0) == 0;
}

/*
 * The children of a supervisor that was killed die a moment after it; until then they hold the lock, and it is worth
 * waiting. -EWOULDBLOCK: it is held for good.
 */
static int lock_dir(const char *path, int *ret_fd)
{
    int64_t until_ms = clock_mono_ms() + LOCK_PATIENCE_MS;
    _cleanup_(base_closep) int fd = -1;
    char name[PATH_MAX + 8], pid[16];

    (void)snprintf(name, sizeof(name), "%s/.lock", path);
    fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        struct timespec step = {.tv_nsec = LOCK_STEP_NS};

        if (errno != EWOULDBLOCK && errno != EINTR)
            return -errno;
        if (holder_lives(fd) || clock_mono_ms() >= until_ms)
            return -EWOULDBLOCK;
        (void)nanosleep(&step, NULL);
    }
    (void)snprintf(pid, sizeof(pid), "%d", (int)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, strlen(pid), 0) < 0)
        return -errno;
    *ret_fd = fd;
    fd = -1;
    return 0;
}

typedef struct Properties {
    bool exists;
    char cluster_id[UUID_TEXT_SIZE], directory_id[UUID_TEXT_SIZE];
    int64_t node_id;
} Properties;

static int
properties_value(const Conf *c, const char *file, Properties *ret, char *why, size_t why_size)
{
    const char *cluster = conf_get(c, "cluster.id", ""),
               *directory = conf_get(c, "directory.id", "");
    int64_t version, format;
    Uuid id;

    if (parse_i64(conf_get(c, "version", ""), &version) < 0 ||
        parse_i64(conf_get(c, "leat.format", "1"), &format) < 0 ||
        parse_i64(conf_get(c, "node.id", ""), &ret->node_id) < 0 || ret->node_id < 0 ||
        ret->node_id > INT32_MAX || uuid_parse(cluster, &id) < 0 ||
        (directory[0] != '\0' && uuid_parse(directory, &id) < 0))
        return text_refuse(why, why_size, EXIT_DATA,
                           "%s is damaged: version, cluster.id or node.id is missing or no value", file);
    if (version != 1 || format > FORMAT)
        return text_refuse(
            why, why_size, EXIT_DATA,
            "%s was written by Leat %s in format %lld, which this version (%s) does not know: start that one",
            file, conf_get(c, "leat.version", "(unknown)"), (long long)MAX(format, version),
            build_version());
    (void)snprintf(ret->cluster_id, sizeof(ret->cluster_id), "%s", cluster);
    (void)snprintf(ret->directory_id, sizeof(ret->directory_id), "%s", directory);
    ret->exists = true;
    return 0;
}

static int read_properties(const char *dir, Properties *ret, char *why, size_t why_size)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    _cleanup_(conf_deinit) Conf c = {0};
    char path[PATH_MAX + 32];
    ConfError error = {""};
    int r;

    *ret = (Properties){.node_id = -1};
    (void)snprintf(path, sizeof(path), "%s/" PROPERTIES, dir);
    r = fs_read_file(path, PROPERTIES_MAX, &text);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return text_refuse(why, why_size, r == -EFBIG ? EXIT_DATA : EXIT_STORAGE,
                           "%s cannot be read: %s", path, strerror(-r));
    r = conf_parse_buffer(&c, path, (const char *)text.data, text.size, &error);
    if (r < 0)
        return text_refuse(why, why_size, EXIT_DATA, "%s",
                           error.text[0] != '\0' ? error.text : strerror(-r));
    return properties_value(&c, path, ret, why, why_size);
}

static int
write_properties(const char *dir, const DataDir *d, bool with_directory, char *why, size_t why_size)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    char path[PATH_MAX + 32];
    int r;

    (void)snprintf(path, sizeof(path), "%s/" PROPERTIES, dir);
    r = buf_printf(&text, "#\n#made by leat %s\ncluster.id=%s\nversion=1\nnode.id=%" PRId32 "\n",
                   build_version(), d->cluster_id, d->node_id);
    if (r == 0 && with_directory)
        r = buf_printf(&text, "directory.id=%s\n", d->directory_id);
    if (r == 0)
        r = buf_printf(&text, "leat.version=%s\nleat.format=%d\n", build_version(), FORMAT);
    if (r == 0)
        r = fs_write_file_atomic(path, text.data, text.size, 0640);
    if (r < 0)
        return text_refuse(why, why_size, EXIT_STORAGE, "%s cannot be written: %s", path, strerror(-r));
    return 0;
}

/* Who this node is: the directories' word, and the configuration's for a new one. */
static int settle_identity(DataDir *d, const Conf *conf, char *why, size_t why_size)
{
    const ConfEntry *entry = conf_find(conf, "node.id");
    Properties node, log;
    const Properties *known;
    Uuid id;
    int r = read_properties(d->path, &node, why, why_size);

    if (r == 0)
        r = read_properties(d->log_path, &log, why, why_size);
    if (r != 0)
        return r;
    if (node.exists && log.exists &&
        (strcmp(node.cluster_id, log.cluster_id) != 0 || node.node_id != log.node_id))
        return text_refuse(
            why, why_size, EXIT_CONFIG,
            "%s belongs to node %lld of cluster %s, %s to node %lld of cluster %s: log.dirs names another node's log",
            d->path, (long long)node.node_id, node.cluster_id, d->log_path, (long long)log.node_id,
            log.cluster_id);
    known = node.exists ? &node : &log;
    d->is_new = !known->exists;
    d->log_is_new = node.exists && !log.exists;
    d->node_id = (int32_t)(known->exists ? known->node_id : config_i64(conf, "node.id"));
    if (known->exists && entry != NULL && config_i64(conf, "node.id") != d->node_id)
        return text_refuse(
            why, why_size, EXIT_CONFIG,
            "%s:%d: error: node.id = %s, but %s belongs to node %d: a node keeps its id for life",
            entry->file, entry->line, entry->value, d->path, d->node_id);
    if (known->exists)
        memcpy(d->cluster_id, known->cluster_id, sizeof(d->cluster_id));
    else if (uuid_random(&id) == 0)
        uuid_format(&id, d->cluster_id);
    if (log.directory_id[0] != '\0')
        memcpy(d->directory_id, log.directory_id, sizeof(d->directory_id));
    else if (uuid_random(&id) == 0)
        uuid_format(&id, d->directory_id);
    assert(d->cluster_id[0] != '\0' && d->directory_id[0] != '\0');
    if (log.directory_id[0] == '\0')
        r = write_properties(d->log_path, d, true, why, why_size);
    if (r == 0 && !node.exists)
        r = write_properties(d->path, d, false, why, why_size);
    return r;
}

/* "<topic>-<partition>", a folder that the broker made. */
static bool is_partition(int dir_fd, const char *name)
{
    const char *dash = strrchr(name, '-');
    struct stat st;

    return dash != NULL && dash != name && dash[1] != '\0' && strspn(dash + 1, "0123456789") == strlen(dash + 1) &&
           fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

/* Is there an entry of this kind (any, if NULL) in the directory? One that cannot be read has none. */
static bool has_entry(const char *path, bool (*is)(int dir_fd, const char *name), char *ret_name, size_t name_size)
{
    DIR *dir = opendir(path);
    struct dirent *e = NULL;

    if (dir == NULL)
        return false;
    while ((e = readdir(dir)) != NULL && (e->d_name[0] == '.' || (is != NULL && !is(dirfd(dir), e->d_name))))
        ;
    if (e != NULL)
        (void)snprintf(ret_name, name_size, "%s", e->d_name);
    (void)closedir(dir);
    return e != NULL;
}

/*
 * A log without the metadata that names its topics: the node would come up empty, and a client that makes a topic of an
 * old name anew would end the old one's records. The controller writes metadata before any partition is made, so a first
 * start that was cut short does not look like this.
 */
static int check_metadata(const DataDir *d, char *why, size_t why_size)
{
    char meta[PATH_MAX + 8], name[NAME_MAX + 1];

    (void)snprintf(meta, sizeof(meta), "%s/meta", d->path);
    if (has_entry(meta, NULL, name, sizeof(name)) || !has_entry(d->log_path, is_partition, name, sizeof(name)))
        return 0;
    return text_refuse(why, why_size, EXIT_DATA,
                       "%s is empty, but %s holds partitions (%s): the metadata is lost; bring it back with "
                       "`mqctl meta restore DUMP`, or move the log away to begin anew",
                       meta, d->log_path, name);
}

static int open_and_lock(DataDir *d, char *why, size_t why_size)
{
    char inside[PATH_MAX + 8];
    int r = fs_mkdir_p(d->path, 0700);

    if (r == 0)
        r = lock_dir(d->path, &d->lock_fds[0]);
    if (r == -EWOULDBLOCK)
        return text_refuse(why, why_size, EXIT_CONFIG,
                           "another leat-supervisor runs on %s (it holds %s/.lock)", d->path, d->path);
    if (r == 0)
        r = fs_mkdir_p(d->log_path, 0700);
    if (r < 0)
        return text_refuse(why, why_size, EXIT_STORAGE, "the data directory %s cannot be used: %s",
                           d->path, strerror(-r));
    (void)snprintf(inside, sizeof(inside), "%s/log", d->path);
    if (strcmp(inside, d->log_path) != 0) {
        r = lock_dir(d->log_path, &d->lock_fds[1]);
        if (r == -EWOULDBLOCK)
            return text_refuse(why, why_size, EXIT_CONFIG, "another node uses log.dirs %s", d->log_path);
        if (r < 0)
            return text_refuse(why, why_size, EXIT_STORAGE, "log.dirs %s cannot be used: %s",
                               d->log_path, strerror(-r));
    }
    d->dir_fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return d->dir_fd < 0 ? text_refuse(why, why_size, EXIT_STORAGE, "%s: %s", d->path, strerror(errno))
                         : 0;
}

static int log_path_of(DataDir *d, const Conf *conf, char *why, size_t why_size)
{
    const char *dirs = config_text(conf, "log.dirs");
    int n;

    if (dirs == NULL || dirs[0] == '\0')
        dirs = config_text(conf, "log.dir");
    if (dirs == NULL || dirs[0] == '\0')
        n = snprintf(d->log_path, sizeof(d->log_path), "%s/log", d->path);
    else if (strchr(dirs, ',') != NULL)
        return text_refuse(why, why_size, EXIT_CONFIG,
                           "log.dirs = %s: one directory only in this version", dirs);
    else
        n = snprintf(d->log_path, sizeof(d->log_path), "%s", dirs);
    if (n >= (int)sizeof(d->log_path))
        return text_refuse(why, why_size, EXIT_CONFIG, "log.dirs: path too long");
    return 0;
}

/* How the last stop was, as far as the supervisor knows; the broker looks at its marks as well (D4). */
static const char *previous_state(const DataDir *d)
{
    Failure f;

    if (d->is_new || faccessat(d->dir_fd, MARKER, F_OK, 0) == 0)
        return "clean";
    for (CountersRole role = ROW_CONTROLLER; role < ROW_COUNT; role++)
        if (datadir_read_failure(d, role, &f) && f.exit_code == EXIT_STORAGE)
            return "suspect";
    return "synced";
}

int datadir_open(const char *path, const Conf *conf, DataDir *ret, char *why, size_t why_size)
{
    DataDir d = {
        .dir_fd = -1, .lock_fds = {-1, -1}
    };
    int r;

    (void)snprintf(d.path, sizeof(d.path), "%s", path);
    r = log_path_of(&d, conf, why, why_size);
    if (r == 0)
        r = open_and_lock(&d, why, why_size);
    if (r == 0)
        r = check_metadata(&d, why, why_size);
    if (r == 0)
        r = settle_identity(&d, conf, why, why_size);
    if (r != 0) {
        datadir_close(&d);
        return r;
    }
    d.previous_state = previous_state(&d);
    *ret = d;
    return 0;
}

void datadir_close(DataDir *d)
{
    base_closep(&d->dir_fd);
    base_closep(&d->lock_fds[0]);
    base_closep(&d->lock_fds[1]);
}

static int remove_file(DataDir *d, const char *name)
{
    if (unlinkat(d->dir_fd, name, 0) < 0)
        return errno == ENOENT ? 0 : -errno;
    return fsync(d->dir_fd) < 0 ? -errno : 0;
}

int datadir_begin(DataDir *d)
{
    return remove_file(d, MARKER);
}

int datadir_mark_clean(DataDir *d)
{
    char text[64];
    int n = snprintf(text, sizeof(text), "stopped_ms=%" PRId64 "\n", clock_wall_ms());

    return fs_write_file_atomic_at(d->dir_fd, MARKER, text, (size_t)n, 0640);
}

static void failure_name(CountersRole role, char out[64])
{
    (void)snprintf(out, 64, "failure-%s", child_role_name(role));
}

int datadir_keep_failure(DataDir *d, CountersRole role, const Failure *f)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    char name[64], value[sizeof(f->why)];
    int r;

    for (size_t i = 0; i < sizeof(value); i++) /* one line, whatever the child said */
        value[i] = f->why[i] != '\0' && ((unsigned char)f->why[i] < ' ' || f->why[i] == '\\')
                       ? ' '
                       : f->why[i];
    r = buf_printf(&text, "at_ms=%" PRId64 "\nexit_code=%d\nsignal=%d\nkind=%s\nwhy=%s\n", f->at_ms,
                   f->exit_code, f->signal, f->kind, value);
    failure_name(role, name);
    return r < 0 ? r : fs_write_file_atomic_at(d->dir_fd, name, text.data, text.size, 0640);
}

int datadir_forget_failure(DataDir *d, CountersRole role)
{
    char name[64];

    failure_name(role, name);
    return remove_file(d, name);
}

bool datadir_read_failure(const DataDir *d, CountersRole role, Failure *ret)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    _cleanup_(conf_deinit) Conf c = {0};
    int64_t at_ms, code, number;
    char name[64];

    failure_name(role, name);
    if (fs_read_file_at(d->dir_fd, name, PROPERTIES_MAX, &text) < 0 ||
        conf_parse_buffer(&c, name, (const char *)text.data, text.size, NULL) < 0 ||
        parse_i64(conf_get(&c, "at_ms", ""), &at_ms) < 0 ||
        parse_i64(conf_get(&c, "exit_code", ""), &code) < 0 ||
        parse_i64(conf_get(&c, "signal", ""), &number) < 0)
        return false; /* a note for people: a damaged one is no reason to stop */
    *ret = (Failure){.at_ms = at_ms, .exit_code = (int)code, .signal = (int)number};
    (void)snprintf(ret->kind, sizeof(ret->kind), "%s", conf_get(&c, "kind", ""));
    (void)snprintf(ret->why, sizeof(ret->why), "%s", conf_get(&c, "why", ""));
    return true;
}
