/*
 * The log directory: opening with the question how the last stop was (D4), the table of logs with what the checkpoint files
 * say about them, their folders, and closing. The threads are in sync.c and worker.c.
 *
 * Start: `storage-failure` present = suspect; `.kafka_cleanshutdown` present = clean; else synced when the durable marks are
 * whole. The clean marker goes before anything else is touched, so a crash from here on is seen as one.
 */

#include "storage/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/hash.h"

#define PROPERTIES_MAX (64 << 10)
#define EXIT_STORAGE   74
#define CLEANER_MAP_BYTES (128 << 20) /* 5.6 million keys in a pass */

/* ---- table of logs ------------------------------------------------------------------------------------------------- */

static size_t entry_start(const LogDir *dir, const char *topic, int32_t partition)
{
    uint64_t h = hash64(topic, strlen(topic)) + (uint64_t)partition * 0x9e3779b97f4a7c15u;
    return (h ^ (h >> 32)) & (dir->n_entry_slots - 1);
}

static void entry_put(LogDir *dir, size_t index)
{
    const DirEntry *e = dir->entries[index];
    size_t i = entry_start(dir, e->topic, e->partition);
    while (dir->entry_slots[i] != 0)
        i = (i + 1) & (dir->n_entry_slots - 1);
    dir->entry_slots[i] = (uint32_t)index + 1;
}

static bool entries_reserve(LogDir *dir)
{
    size_t capacity = dir->capacity_entries == 0 ? 64 : dir->capacity_entries * 2;
    DirEntry **entries;
    uint32_t *slots;

    if (dir->n_entries < dir->capacity_entries)
        return true;
    entries = realloc(dir->entries, capacity * sizeof(DirEntry *));
    if (!entries)
        return false;
    dir->entries = entries;
    slots = calloc(capacity * 2, sizeof(*slots));
    if (!slots)
        return false;
    free(dir->entry_slots);
    dir->entry_slots = slots;
    dir->n_entry_slots = capacity * 2;
    dir->capacity_entries = capacity;
    for (size_t i = 0; i < dir->n_entries; i++)
        entry_put(dir, i);
    return true;
}

DirEntry *log_dir_entry(LogDir *dir, const char *topic, int32_t partition, bool create)
{
    DirEntry *e;

    for (size_t i = dir->n_entry_slots == 0 ? 0 : entry_start(dir, topic, partition);
         dir->n_entry_slots > 0 && dir->entry_slots[i] != 0; i = (i + 1) & (dir->n_entry_slots - 1)) {
        e = dir->entries[dir->entry_slots[i] - 1];
        if (e->partition == partition && strcmp(e->topic, topic) == 0)
            return e;
    }
    if (!create || !entries_reserve(dir))
        return NULL;
    e = calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    *e = (DirEntry){.topic = strdup(topic), .partition = partition, .recovery_point = -1, .start = -1,
                    .high_watermark = -1, .cleaned_to = -1};
    if (!e->topic) {
        free(e);
        return NULL;
    }
    dir->entries[dir->n_entries++] = e;
    entry_put(dir, dir->n_entries - 1);
    return e;
}

/* The name is the topic's for a folder that is not one of a log being deleted. */
bool log_dir_name_parse(const char *name, char ret_topic[250], int32_t *ret_partition)
{
    const char *dash = strrchr(name, '-');
    int64_t partition;

    if (!dash || dash == name || (size_t)(dash - name) > 249 || dash[1] < '0' || dash[1] > '9' ||
        parse_i64(dash + 1, &partition) < 0 || partition > INT32_MAX || !topic_name_is_valid(name, (size_t)(dash - name)))
        return false;
    memcpy(ret_topic, name, (size_t)(dash - name));
    ret_topic[dash - name] = '\0';
    *ret_partition = (int32_t)partition;
    return true;
}

static bool has_suffix(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

/* Calls fn for each name in the directory. */
static int each_name(LogDir *dir, int (*fn)(LogDir *dir, const char *name, void *userdata), void *userdata)
{
    int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;

    if (!d) {
        r = -errno;
        if (fd >= 0)
            close(fd);
        return r;
    }
    while (r == 0 && (errno = 0, e = readdir(d)) != NULL)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            r = fn(dir, e->d_name, userdata);
    if (r == 0 && errno != 0)
        r = -errno;
    closedir(d);
    return r;
}

static bool is_folder(const LogDir *dir, const char *name)
{
    struct stat st;
    return fstatat(dir->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

static int scan_name(LogDir *dir, const char *name, void *userdata)
{
    char topic[250];
    int32_t partition;
    DirEntry *e;

    (void)userdata;
    if (log_dir_name_parse(name, topic, &partition) && is_folder(dir, name)) {
        e = log_dir_entry(dir, topic, partition, true);
        if (!e)
            return -ENOMEM;
        e->found = true;
    } else if (has_suffix(name, "-delete") && is_folder(dir, name)) {
        log_dir_delete_later(dir, name, 0, NULL);
    } else if (has_suffix(name, ".tmp")) {
        (void)unlinkat(dir->fd, name, 0); /* half of an atomic write that never happened */
    }
    return 0;
}

/* ---- checkpoint files at start ------------------------------------------------------------------------------------- */

typedef struct CheckpointLoad {
    LogDir *dir;
    size_t field; /* of DirEntry */
} CheckpointLoad;

static int load_line(void *userdata, const char *topic, int32_t partition, int64_t offset)
{
    const CheckpointLoad *load = userdata;
    DirEntry *e = log_dir_entry(load->dir, topic, partition, false);

    if (e)
        *(int64_t *)(void *)((char *)e + load->field) = offset;
    else /* the line of a log that is gone */
        load->dir->forgotten++;
    return 0;
}

/* A missing or damaged file is like an empty one: its logs are scanned from their start (F13). */
static void load_checkpoints(LogDir *dir)
{
    CheckpointLoad load = {.dir = dir};

    load.field = offsetof(DirEntry, recovery_point);
    (void)checkpoint_read(dir->fd, CHECKPOINT_RECOVERY, load_line, &load);
    load.field = offsetof(DirEntry, start);
    (void)checkpoint_read(dir->fd, CHECKPOINT_START, load_line, &load);
    load.field = offsetof(DirEntry, high_watermark);
    (void)checkpoint_read(dir->fd, CHECKPOINT_HW, load_line, &load);
    load.field = offsetof(DirEntry, cleaned_to);
    (void)checkpoint_read(dir->fd, CHECKPOINT_CLEANER, load_line, &load);
}

/* ---- meta.properties ----------------------------------------------------------------------------------------------- */

static bool find_directory_id(char *text, Uuid *ret)
{
    char *save = NULL;

    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (strncmp(line, "directory.id=", 13) == 0)
            return uuid_parse(line + 13, ret) == 0;
    return false;
}

/* Keeps every other line: cluster.id and node.id are written by who knows them. */
static int load_id(LogDir *dir)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL, copy = BUF_NULL;
    char id[UUID_TEXT_SIZE];
    int r = fs_read_file_at(dir->fd, META_PROPERTIES_FILE, PROPERTIES_MAX, &text);

    if (r < 0 && r != -ENOENT)
        return r;
    if (r == 0) {
        r = buf_printf(&copy, "%s", (char *)text.data);
        if (r < 0)
            return r;
        if (find_directory_id((char *)copy.data, &dir->id))
            return 0;
    }
    r = uuid_random(&dir->id);
    if (r < 0)
        return r;
    uuid_format(&dir->id, id);
    if (text.size == 0)
        r = buf_printf(&text, "version=1\n");
    else if (text.data[text.size - 1] != '\n')
        r = buf_printf(&text, "\n");
    if (r >= 0)
        r = buf_printf(&text, "directory.id=%s\n", id);
    return r < 0 ? r : fs_write_file_atomic_at(dir->fd, META_PROPERTIES_FILE, text.data, text.size, 0600);
}

/* ---- opening ------------------------------------------------------------------------------------------------------- */

static bool file_exists(const LogDir *dir, const char *name)
{
    return faccessat(dir->fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static int judge_last_stop(LogDir *dir, bool marks_whole)
{
    bool clean = file_exists(dir, CLEAN_SHUTDOWN_FILE), any = false;

    for (size_t i = 0; i < dir->n_entries; i++)
        any = any || dir->entries[i]->found;
    dir->flag_found = file_exists(dir, STORAGE_FAILURE_FILE);
    if (dir->flag_found)
        dir->state = LOG_DIR_SUSPECT;
    else if (clean || !any)
        dir->state = LOG_DIR_CLEAN;
    else
        dir->state = marks_whole ? LOG_DIR_SYNCED : LOG_DIR_SUSPECT;
    for (size_t i = 0; i < dir->n_entries; i++)
        dir->entries[i]->clean = dir->state == LOG_DIR_CLEAN;
    if (clean && (unlinkat(dir->fd, CLEAN_SHUTDOWN_FILE, 0) < 0 || fsync(dir->fd) < 0))
        return -errno;
    return 0;
}

static int start_threads(LogDir *dir)
{
    int r = pthread_create(&dir->sync_thread, NULL, sync_thread_main, dir);

    if (r != 0)
        return -r;
    dir->sync_started = true;
    r = pthread_create(&dir->worker_thread, NULL, worker_thread_main, dir);
    if (r != 0)
        return -r;
    dir->worker_started = true;
    return 0;
}

static void init_conditions(LogDir *dir)
{
    pthread_condattr_t attr;

    pthread_mutex_init(&dir->mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&dir->wake_sync, &attr);
    pthread_cond_init(&dir->wake_worker, &attr);
    pthread_cond_init(&dir->progress, &attr);
    pthread_condattr_destroy(&attr);
    list_init(&dir->open_segments);
    list_init(&dir->logs);
    list_init(&dir->waiting);
    list_init(&dir->deletes);
    dir->tick_ms = 1000;
}

static int open_steps(LogDir *dir, const char **ret_what)
{
    bool marks_whole = false;
    int r;

    *ret_what = "cannot create the directory";
    r = fs_mkdir_p(dir->path, 0700);
    if (r < 0)
        return r;
    *ret_what = "cannot open the directory";
    dir->fd = open(dir->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir->fd < 0)
        return -errno;
    *ret_what = "cannot read " META_PROPERTIES_FILE;
    r = load_id(dir);
    if (r < 0)
        return r;
    *ret_what = "cannot list the directory";
    r = each_name(dir, scan_name, NULL);
    if (r < 0)
        return r;
    *ret_what = "cannot open " DURABLE_MARKS_FILE;
    r = marks_open(dir->fd, &dir->id, &dir->marks, &marks_whole);
    if (r < 0)
        return r;
    load_checkpoints(dir);
    *ret_what = "cannot remove the clean-shutdown marker";
    r = judge_last_stop(dir, marks_whole);
    if (r < 0)
        return r;
    *ret_what = "cannot read the free space";
    r = log_dir_scan_free(dir);
    if (r < 0)
        return r;
    pool_open(dir);
    *ret_what = "cannot start a thread";
    return start_threads(dir);
}

static LogDir *dir_free(LogDir *dir)
{
    list_for_each_safe(it, &dir->deletes) {
        DelayedDelete *d = CONTAINER_OF(it, DelayedDelete, node);
        free(d->path);
        free(d);
    }
    for (size_t i = 0; i < dir->n_entries; i++) {
        free(dir->entries[i]->topic);
        free(dir->entries[i]);
    }
    free(dir->entries);
    free(dir->entry_slots);
    marks_close(dir->marks);
    if (dir->fd >= 0)
        close(dir->fd);
    pthread_mutex_destroy(&dir->mutex);
    pthread_cond_destroy(&dir->wake_sync);
    pthread_cond_destroy(&dir->wake_worker);
    pthread_cond_destroy(&dir->progress);
    free(dir->path);
    free(dir);
    return NULL;
}

static void stop_threads(LogDir *dir)
{
    pthread_mutex_lock(&dir->mutex);
    dir->stop = true;
    pthread_cond_broadcast(&dir->wake_sync);
    pthread_cond_broadcast(&dir->wake_worker);
    pthread_mutex_unlock(&dir->mutex);
    if (dir->sync_started)
        pthread_join(dir->sync_thread, NULL);
    if (dir->worker_started)
        pthread_join(dir->worker_thread, NULL);
}

int log_dir_open(const LogDirOptions *o, LogDir **ret, char *ret_why, size_t why_size)
{
    const char *what = "out of memory";
    LogDir *dir = calloc(1, sizeof(*dir));
    int r;

    if (!dir)
        return -ENOMEM;
    dir->options = *o;
    atomic_init(&dir->reserve_bytes, o->reserve_bytes);
    log_dir_set_cleaner(dir, CLEANER_MAP_BYTES, INT64_MAX);
    dir->fd = -1;
    init_conditions(dir);
    dir->path = strdup(o->path);
    r = dir->path ? open_steps(dir, &what) : -ENOMEM;
    if (r < 0) {
        (void)snprintf(ret_why, why_size, "%s: %s: %s", o->path, what, strerror(-r));
        stop_threads(dir);
        dir_free(dir);
        return r;
    }
    dir->options.path = dir->path;
    *ret = dir;
    return 0;
}

static int write_clean_marker(LogDir *dir)
{
    static const char text[] = "{\"version\":0,\"brokerEpoch\":-1}";
    int r = syncfs(dir->fd) < 0 ? -errno : 0; /* closed segments were cut, indexes and snapshots written */

    if (r == 0)
        r = marks_write(dir->marks, true);
    if (r == 0)
        r = log_dir_write_checkpoints(dir);
    if (r == 0)
        r = fs_write_file_atomic_at(dir->fd, CLEAN_SHUTDOWN_FILE, text, sizeof(text) - 1, 0600);
    return r;
}

LogDir *log_dir_close(LogDir *dir, bool clean)
{
    if (!dir)
        return NULL;
    stop_threads(dir);
    if (clean) {
        int r;
        assert(list_is_empty(&dir->logs));
        r = write_clean_marker(dir);
        if (!log_dir_is_harmless(r)) /* else the next start recovers as after a crash */
            log_dir_fail(dir, "clean stop", -r);
    }
    return dir_free(dir);
}

/* ---- failures (D3) ------------------------------------------------------------------------------------------------- */

void log_dir_note_failure(LogDir *dir, const char *what, int error)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;

    /* Best effort on a disk that just failed; the supervisor also keeps the exit status. */
    if (buf_printf(&text, "%s: %s\n", what, strerror(error)) >= 0)
        (void)fs_write_file_atomic_at(dir->fd, STORAGE_FAILURE_FILE, text.data, text.size, 0600);
}

_Noreturn void log_dir_fail(LogDir *dir, const char *what, int error)
{
    char why[320];

    (void)snprintf(why, sizeof(why), "%s: %s: %s", dir->path, what, strerror(error));
    if (dir->options.failed)
        dir->options.failed(dir->options.userdata, why);
    log_dir_note_failure(dir, what, error);
    _exit(EXIT_STORAGE);
}

/* ---- logs come and go ---------------------------------------------------------------------------------------------- */

/* Marks are keyed by topic id, so that a topic made again under its old name starts without one. */
static Uuid mark_key(const PlogId *id)
{
    Uuid key = id->topic_id;
    if (uuid_is_zero(&key)) {
        uint64_t h = hash64(id->topic, strlen(id->topic));
        memcpy(key.b, &h, sizeof(h));
        key.b[15] = 1;
    }
    return key;
}

int log_dir_attach(LogDir *dir, Plog *log)
{
    Uuid key = mark_key(&log->id);
    uint32_t slot;
    int64_t mark;
    int r = marks_slot(dir->marks, &key, log->id.partition, &slot, &mark);

    if (r < 0)
        return r;
    pthread_mutex_lock(&dir->mutex);
    log->entry = log_dir_entry(dir, log->id.topic, log->id.partition, true);
    if (log->entry) {
        assert(log->entry->log == NULL);
        log->entry->log = log;
        log->entry->found = true;
        log->entry->recovered = false;
        log->entry->mark_slot = slot;
        log->unsettled = true;
        log->mark_at_open = mark;
        list_append(&dir->logs, &log->in_dir);
    }
    pthread_mutex_unlock(&dir->mutex);
    return log->entry ? 0 : -ENOMEM;
}

void log_dir_detach(LogDir *dir, Plog *log, bool save)
{
    DirEntry *e = log->entry;

    pthread_mutex_lock(&dir->mutex);
    while (log->in_round)
        pthread_cond_wait(&dir->progress, &dir->mutex);
    list_remove(&log->in_waiting);
    list_remove(&log->in_dir);
    for (size_t i = 0; i < log->n_dirty; i++)
        seg_file_unref(log->dirty[i]);
    log->n_dirty = 0;
    atomic_fetch_add(&dir->synced_bytes, atomic_load(&log->appended) - atomic_load(&log->synced_bytes));
    if (e)
        e->log = NULL;
    if (e && save) {
        e->recovery_point = atomic_load(&log->durable);
        e->start = atomic_load(&log->start);
        e->high_watermark = atomic_load(&log->high_watermark);
        e->cleaned_to = atomic_load(&log->cleaned_to);
        e->clean = true;
    }
    pthread_mutex_unlock(&dir->mutex);
}

void log_dir_forget(LogDir *dir, DirEntry *e)
{
    pthread_mutex_lock(&dir->mutex);
    e->found = e->recovered = e->clean = false;
    e->recovery_point = e->start = e->high_watermark = e->cleaned_to = -1;
    dir->forgotten++;
    pthread_mutex_unlock(&dir->mutex);
    marks_drop(dir->marks, e->mark_slot);
}

/* Gives the log's name free. @kind: "delete", which the next start removes, or "stray". */
int log_dir_rename_folder(LogDir *dir, const char *log_name, const char *kind, char ret_folder[FOLDER_NAME_MAX])
{
    char uuid[UUID_TEXT_SIZE];
    Uuid unique;
    int r = uuid_random(&unique);

    if (r < 0)
        return r;
    uuid_format(&unique, uuid);
    (void)snprintf(ret_folder, FOLDER_NAME_MAX, "%s.%s-%s", log_name, uuid, kind);
    return renameat(dir->fd, log_name, dir->fd, ret_folder) < 0 ? -errno : 0;
}

static int leave_closed(LogDir *dir, const PlogId *id, const char *kind, char ret_folder[FOLDER_NAME_MAX])
{
    char name[264];
    Uuid present, key = mark_key(id);
    DirEntry *e;
    int64_t mark;
    int r;

    (void)snprintf(name, sizeof(name), "%s-%" PRId32, id->topic, id->partition);
    r = partition_metadata_read(dir->fd, name, &present);
    if (r == 0 && !uuid_equal(&present, &id->topic_id))
        r = -ENOENT;
    pthread_mutex_lock(&dir->mutex);
    e = log_dir_entry(dir, id->topic, id->partition, false); /* NULL: made by this process, never opened, in no checkpoint */
    assert(r < 0 || !e || !e->log);
    pthread_mutex_unlock(&dir->mutex);
    if (r == 0 && e)
        r = marks_slot(dir->marks, &key, id->partition, &e->mark_slot, &mark);
    if (r == 0)
        r = log_dir_rename_folder(dir, name, kind, ret_folder);
    if (r == 0 && e)
        log_dir_forget(dir, e);
    return r;
}

int plog_delete_closed(LogDir *dir, const PlogId *id, int64_t delay_ms)
{
    char folder[FOLDER_NAME_MAX];
    int r = leave_closed(dir, id, "delete", folder);

    if (r == 0)
        log_dir_delete_later(dir, folder, delay_ms, NULL);
    return r;
}

int plog_set_aside(LogDir *dir, const PlogId *id)
{
    char folder[FOLDER_NAME_MAX];

    return leave_closed(dir, id, "stray", folder);
}

/* The checkpoint files know logs by name. Before a name is used again they must have forgotten the log that had it: after a
 * crash its recovery point and its start would be taken for the new one's. */
static int forget_on_disk(LogDir *dir)
{
    pthread_mutex_lock(&dir->mutex);
    uint64_t forgotten = dir->forgotten;
    bool stale = forgotten > dir->forgotten_on_disk;
    pthread_mutex_unlock(&dir->mutex);
    int r = stale ? log_dir_checkpoint_wait(dir) : 0;
    if (r < 0)
        return r;
    pthread_mutex_lock(&dir->mutex);
    dir->forgotten_on_disk = MAX(dir->forgotten_on_disk, forgotten);
    pthread_mutex_unlock(&dir->mutex);
    return 0;
}

int log_dir_create_log(LogDir *dir, const PlogId *id)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    char name[264], path[300], uuid[UUID_TEXT_SIZE];
    Uuid present;
    int fd, r;

    if (!topic_name_is_valid(id->topic, strlen(id->topic)) || id->partition < 0)
        return -EINVAL;
    r = forget_on_disk(dir);
    if (r < 0)
        return r;
    (void)snprintf(name, sizeof(name), "%s-%" PRId32, id->topic, id->partition);
    if (mkdirat(dir->fd, name, 0700) < 0) {
        if (errno != EEXIST)
            return -errno;
        r = partition_metadata_read(dir->fd, name, &present);
        if (r != -ENOENT)
            return r < 0 ? r : uuid_equal(&present, &id->topic_id) ? 0 : -EEXIST;
    }
    uuid_format(&id->topic_id, uuid);
    r = buf_printf(&text, "version: 0\ntopic_id: %s", uuid);
    if (r < 0)
        return r;
    (void)snprintf(path, sizeof(path), "%s/%s", name, PARTITION_METADATA);
    fd = openat(dir->fd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    r = fs_pwrite_all(fd, text.data, text.size, 0);
    close(fd);
    return r;
}

int log_dir_create_logs(LogDir *dir, const PlogId *ids, size_t n)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < n; i++)
        r = log_dir_create_log(dir, &ids[i]);
    if (r == 0 && n > 0 && syncfs(dir->fd) < 0)
        log_dir_fail(dir, "syncfs", errno);
    return r;
}

int partition_metadata_read(int dir_fd, const char *log_name, Uuid *ret)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    char path[300], *save = NULL;
    int r;

    (void)snprintf(path, sizeof(path), "%s/%s", log_name, PARTITION_METADATA);
    r = fs_read_file_at(dir_fd, path, 4096, &text);
    if (r < 0)
        return r;
    if (text.size == 0)
        return -ENOENT; /* made just before a power cut */
    for (char *line = strtok_r((char *)text.data, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (strncmp(line, "topic_id: ", 10) == 0)
            return uuid_parse(line + 10, ret) < 0 ? -EBADMSG : 0;
    return -EBADMSG;
}

typedef struct LogList {
    PlogId *ids;
    size_t n, capacity;
} LogList;

static int list_name(LogDir *dir, const char *name, void *userdata)
{
    LogList *list = userdata;
    PlogId id = {0};

    if (!log_dir_name_parse(name, id.topic, &id.partition) || !is_folder(dir, name))
        return 0;
    (void)partition_metadata_read(dir->fd, name, &id.topic_id); /* zero: unknown */
    if (list->n == list->capacity) {
        size_t capacity = list->capacity == 0 ? 32 : list->capacity * 2;
        PlogId *ids = realloc(list->ids, capacity * sizeof(*ids));
        if (!ids)
            return -ENOMEM;
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->n++] = id;
    return 0;
}

int log_dir_list(LogDir *dir, PlogId **ret, size_t *ret_n)
{
    LogList list = {0};
    int r = each_name(dir, list_name, &list);

    if (r < 0) {
        free(list.ids);
        return r;
    }
    *ret = list.ids;
    *ret_n = list.n;
    return 0;
}

/* ---- small ones ---------------------------------------------------------------------------------------------------- */

const Uuid *log_dir_id(const LogDir *dir)
{
    return &dir->id;
}

LogDirState log_dir_state(const LogDir *dir)
{
    return dir->state;
}

int log_dir_fd(const LogDir *dir)
{
    return dir->fd;
}

int log_dir_scan_free(LogDir *dir)
{
    struct statvfs st;

    if (fstatvfs(dir->fd, &st) < 0)
        return -errno;
    atomic_store(&dir->free_bytes, (int64_t)((uint64_t)st.f_bavail * st.f_frsize));
    return 0;
}

void log_dir_set_reserve(LogDir *dir, int64_t bytes)
{
    atomic_store(&dir->reserve_bytes, bytes);
}

void log_dir_set_cleaner(LogDir *dir, int64_t map_bytes, int64_t bytes_per_second)
{
    atomic_store(&dir->cleaner_map_bytes, map_bytes);
    atomic_store(&dir->cleaner_rate, bytes_per_second);
}

bool log_dir_refuses(const LogDir *dir, bool internal, bool from_client)
{
    int64_t left = atomic_load(&dir->free_bytes), reserve = atomic_load(&dir->reserve_bytes);
    return left < (from_client && !internal ? reserve : reserve / 4);
}

void log_dir_stats(LogDir *dir, LogDirStats *ret)
{
    pthread_mutex_lock(&dir->mutex);
    *ret = dir->stats;
    ret->running_round_ns = dir->in_round ? clock_mono_ns() - dir->round_since_ns : 0;
    ret->pool_bytes = dir->pool.ready_bytes;
    pthread_mutex_unlock(&dir->mutex);
    ret->free_bytes = atomic_load(&dir->free_bytes);
    ret->reserve_bytes = atomic_load(&dir->reserve_bytes);
    ret->low = ret->free_bytes < ret->reserve_bytes;
    ret->exhausted = ret->free_bytes < ret->reserve_bytes / 4;
}

void log_dir_set_high_watermark(LogDir *dir, Plog *log, int64_t hw)
{
    (void)dir;
    atomic_store(&log->high_watermark, hw);
}

int64_t log_dir_checkpointed_high_watermark(LogDir *dir, const PlogId *id)
{
    const DirEntry *e;
    int64_t hw;

    pthread_mutex_lock(&dir->mutex);
    e = log_dir_entry(dir, id->topic, id->partition, false);
    hw = !e ? -1 : e->log ? atomic_load(&e->log->high_watermark) : e->high_watermark;
    pthread_mutex_unlock(&dir->mutex);
    return hw;
}
