/*
 * The parser of conf.h. One pass: physical lines are joined into a logical line, which is a comment, a section, or
 * `key = value`. Values keep their text; only blanks around them go. Kafka's own files separate by '=', Java's rules also
 * know ':', so both are taken.
 *
 * Errors name file, line and column of the logical line's beginning. What is accepted here, conf_serialize() can write so
 * that parsing gives the same entries again: values hold no control characters and end in no odd number of backslashes.
 */

#include "base/conf.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/text.h"

#define CONF_FILE_MAX    (1u << 20)
#define CONF_ENTRIES_MAX 4096u
#define CONF_KEY_MAX     255u

typedef struct Parser {
    Conf *conf;
    const char *file;
    const char *at, *end;
    int line;                       /* of `at` */
    int start_line;                 /* of the logical line in `text` */
    Buf text;                       /* logical line, NUL behind it */
    char section[CONF_KEY_MAX + 2]; /* with the dot, or empty */
    uint8_t seen[CONF_ENTRIES_MAX]; /* by entry: set in this file */
    ConfError *error;
} Parser;

static int PRINTF_LIKE(3, 4) fail(Parser *p, size_t column, const char *fmt, ...)
{
    size_t n;
    va_list args;

    if (p->error == NULL)
        return -EBADMSG;
    n = (size_t)snprintf(p->error->text, sizeof(p->error->text), "%.255s:%d:%zu: error: ", p->file,
                         p->start_line, column + 1);
    va_start(args, fmt);
    (void)vsnprintf(p->error->text + n, sizeof(p->error->text) - n, fmt, args);
    va_end(args);
    return -EBADMSG;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\f';
}

static bool is_key_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
}

static bool ends_in_continuation(const char *s, size_t n)
{
    size_t slashes = 0;

    while (slashes < n && s[n - 1 - slashes] == '\\')
        slashes++;
    return slashes % 2 == 1;
}

static int check_line(Parser *p, const char *line, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)line[i] < ' ' && !is_blank(line[i]))
            return fail(p, i, "control character 0x%02x", (unsigned char)line[i]);
    if (!utf8_is_valid(line, n))
        return fail(p, 0, "not UTF-8");
    return 0;
}

/* Return: 1 a logical line in p->text, 0 end of file. */
static int next_line(Parser *p)
{
    bool more = true;

    if (p->at >= p->end)
        return 0;
    buf_clear(&p->text);
    p->start_line = p->line;
    while (more) {
        const char *newline = memchr(p->at, '\n', (size_t)(p->end - p->at));
        const char *line = p->at;
        size_t n = (size_t)((newline == NULL ? p->end : newline) - line);
        int r;

        p->at = newline == NULL ? p->end : newline + 1;
        p->line++;
        if (n > 0 && line[n - 1] == '\r')
            n--;
        r = check_line(p, line, n);
        if (r < 0)
            return r;
        while (n > 0 && is_blank(*line) && p->text.size > 0)
            line++, n--;
        more = ends_in_continuation(line, n);
        if (more && p->text.size == 0) { /* a comment ends with its line */
            size_t i = 0;

            while (i < n && is_blank(line[i]))
                i++;
            more = strchr("#;!", line[i]) == NULL;
        }
        if (more && p->at >= p->end)
            return fail(p, n - 1,
                        "'\\' at the end of the file: the line it continues with is missing");
        r = buf_append(&p->text, line, more ? n - 1 : n);
        if (r < 0)
            return r;
    }
    if (buf_reserve(&p->text, 1) < 0)
        return -ENOMEM;
    p->text.data[p->text.size] = '\0';
    return 1;
}

static ssize_t find_index(const Conf *c, const char *key)
{
    for (size_t i = 0; i < c->n; i++)
        if (strcmp(c->entries[i].key, key) == 0)
            return (ssize_t)i;
    return -1;
}

static void entry_deinit(ConfEntry *e)
{
    free(e->key);
    free(e->value);
    free(e->file);
}

void conf_deinit(Conf *c)
{
    for (size_t i = 0; i < c->n; i++)
        entry_deinit(&c->entries[i]);
    free(c->entries);
    *c = (Conf){0};
}

static int reserve_entry(Conf *c)
{
    size_t capacity = c->capacity == 0 ? 32 : c->capacity * 2;
    ConfEntry *entries;

    if (c->n >= CONF_ENTRIES_MAX)
        return -E2BIG;
    if (c->n < c->capacity)
        return 0;
    entries = realloc(c->entries, capacity * sizeof(*entries));
    if (entries == NULL)
        return -ENOMEM;
    c->entries = entries;
    c->capacity = capacity;
    return 0;
}

/* Inserts or replaces; the caller has checked key and value. Return: index of the entry. */
static ssize_t
put(Conf *c, const char *key, const char *value, size_t value_size, const char *file, int line)
{
    ConfEntry e = {.key = strdup(key),
                   .value = strndup(value, value_size),
                   .file = strdup(file),
                   .line = line};
    ssize_t i = find_index(c, key);
    int r = 0;

    if (e.key == NULL || e.value == NULL || e.file == NULL)
        r = -ENOMEM;
    else if (i < 0)
        r = reserve_entry(c);
    if (r < 0) {
        entry_deinit(&e);
        return r;
    }
    if (i < 0)
        i = (ssize_t)c->n++;
    else
        entry_deinit(&c->entries[i]);
    c->entries[i] = e;
    return i;
}

static int parse_section(Parser *p, const char *s, size_t begin)
{
    size_t i = begin + 1, n;

    while (is_key_char(s[i]))
        i++;
    if (s[i] != ']')
        return fail(p, i, "a section is [name] with letters, digits, '.', '_' and '-'");
    n = i - begin - 1;
    for (i++; is_blank(s[i]); i++)
        ;
    if (s[i] != '\0')
        return fail(p, i, "text behind the section's ']'");
    if (n > CONF_KEY_MAX)
        return fail(p, begin, "section name longer than %u", CONF_KEY_MAX);
    memcpy(p->section, s + begin + 1, n);
    if (n > 0 && p->section[n - 1] != '.') /* [] ends the prefix */
        p->section[n++] = '.';
    p->section[n] = '\0';
    return 0;
}

static int append_value(Parser *p, const char *key, const char *value, size_t n)
{
    const ConfEntry *old = conf_find(p->conf, key);
    _cleanup_(buf_deinit) Buf joined = BUF_NULL;
    int r;

    if (old == NULL || old->value[0] == '\0')
        return (int)put(p->conf, key, value, n, p->file, p->start_line);
    r = buf_printf(&joined, "%s,%.*s", old->value, (int)n, value);
    if (r < 0)
        return r;
    return (int)put(p->conf, key, (const char *)joined.data, joined.size, p->file, p->start_line);
}

static int
assign(Parser *p, const char *key, const char *value, size_t n, bool append, size_t column)
{
    ssize_t i = find_index(p->conf, key);

    if (append) {
        i = append_value(p, key, value, n);
    } else {
        if (i >= 0 && p->seen[i])
            return fail(p, column, "'%s' is set a second time; the first is in line %d", key,
                        p->conf->entries[i].line);
        i = put(p->conf, key, value, n, p->file, p->start_line);
    }
    if (i == -E2BIG)
        return fail(p, column, "more than %u keys", CONF_ENTRIES_MAX);
    if (i < 0)
        return (int)i;
    p->seen[i] = 1;
    return 0;
}

static int parse_assignment(Parser *p, const char *s, size_t size, size_t begin)
{
    char key[2 * CONF_KEY_MAX + 4];
    size_t key_end = begin, value, n = size;
    bool append = false;

    while (is_key_char(s[key_end]))
        key_end++;
    value = key_end;
    while (is_blank(s[value]))
        value++;
    if (s[value] == '+' && s[value + 1] == '=') {
        append = true;
        value++;
    }
    if (s[value] != '=' && s[value] != ':')
        return fail(p, value,
                    s[value] == '\0' ? "expected '=' behind '%.*s'"
                                     : "'%.*s' is followed by neither '=' nor '+='",
                    (int)MIN(key_end - begin, 64u), s + begin);
    if (key_end == begin)
        return fail(p, begin, "a key is missing in front of '%c'", s[value]);
    if (strlen(p->section) + key_end - begin > CONF_KEY_MAX)
        return fail(p, begin, "key longer than %u", CONF_KEY_MAX);
    (void)snprintf(key, sizeof(key), "%s%.*s", p->section, (int)(key_end - begin), s + begin);
    for (value++; is_blank(s[value]); value++)
        ;
    while (n > value && is_blank(s[n - 1]))
        n--;
    return assign(p, key, s + value, n - value, append, begin);
}

static int parse_line(Parser *p)
{
    const char *s = (const char *)p->text.data;
    size_t begin = 0;

    while (is_blank(s[begin]))
        begin++;
    if (s[begin] == '\0' || strchr("#;!", s[begin]) != NULL)
        return 0;
    if (s[begin] == '[')
        return parse_section(p, s, begin);
    return parse_assignment(p, s, p->text.size, begin);
}

int conf_parse_buffer(
    Conf *c, const char *file, const char *data, size_t size, ConfError *ret_error)
{
    Parser *p = calloc(1, sizeof(*p));
    int r;

    if (p == NULL)
        return -ENOMEM;
    *p = (Parser){.conf = c,
                  .file = file,
                  .at = data,
                  .end = size > 0 ? data + size : data, /* an empty file may come as NULL */
                  .line = 1,
                  .start_line = 1,
                  .error = ret_error};
    if (size > CONF_FILE_MAX)
        r = fail(p, 0, "larger than %u bytes", CONF_FILE_MAX);
    else if (size > 0 && memchr(data, '\0', size) != NULL)
        r = fail(p, 0, "holds a NUL byte: not a text file");
    else {
        if (size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0) /* byte order mark */
            p->at += 3;
        while ((r = next_line(p)) > 0) {
            r = parse_line(p);
            if (r < 0)
                break;
        }
    }
    buf_deinit(&p->text);
    free(p);
    return r;
}

int conf_parse_file(Conf *c, const char *path, ConfError *ret_error)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    int r = fs_read_file(path, CONF_FILE_MAX, &text);

    if (r == -EFBIG) {
        if (ret_error != NULL)
            (void)snprintf(ret_error->text, sizeof(ret_error->text),
                           "%.255s:1:1: error: larger than %u bytes", path, CONF_FILE_MAX);
        return -EBADMSG;
    }
    if (r < 0) {
        if (ret_error != NULL)
            (void)snprintf(ret_error->text, sizeof(ret_error->text),
                           "%.255s:1:1: error: cannot be read: %s", path, strerror(-r));
        return r;
    }
    return conf_parse_buffer(c, path, (const char *)text.data, text.size, ret_error);
}

static int is_conf_file(const struct dirent *e)
{
    size_t n = strlen(e->d_name);

    return e->d_name[0] != '.' && n > 5 && strcmp(e->d_name + n - 5, ".conf") == 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name); /* not the locale's order */
}

int conf_parse_dir(Conf *c, const char *dir, ConfError *ret_error)
{
    struct dirent **names = NULL;
    int n = scandir(dir, &names, is_conf_file, by_bytes), r = 0;

    if (n < 0) {
        if (errno == ENOENT)
            return 0;
        r = -errno;
        if (ret_error != NULL)
            (void)snprintf(ret_error->text, sizeof(ret_error->text),
                           "%.255s:1:1: error: cannot be read: %s", dir, strerror(-r));
        return r;
    }
    for (int i = 0; i < n; i++) {
        char path[PATH_MAX];

        if (r == 0 &&
            snprintf(path, sizeof(path), "%s/%s", dir, names[i]->d_name) >= (int)sizeof(path))
            r = -ENAMETOOLONG;
        if (r == 0)
            r = conf_parse_file(c, path, ret_error);
        free(names[i]);
    }
    free(names);
    return r;
}

int conf_parse_tree(Conf *c, const char *main_path, ConfError *ret_error)
{
    const char *slash = strrchr(main_path, '/');
    char dir[PATH_MAX];
    int r = conf_parse_file(c, main_path, ret_error);

    if (r < 0)
        return r;
    if (snprintf(dir, sizeof(dir), "%.*sconf.d", slash == NULL ? 0 : (int)(slash - main_path + 1),
                 main_path) >= (int)sizeof(dir))
        return -ENAMETOOLONG;
    return conf_parse_dir(c, dir, ret_error);
}

const ConfEntry *conf_find(const Conf *c, const char *key)
{
    ssize_t i = find_index(c, key);

    return i < 0 ? NULL : &c->entries[i];
}

const char *conf_get(const Conf *c, const char *key, const char *fallback)
{
    const ConfEntry *e = conf_find(c, key);

    return e == NULL ? fallback : e->value;
}

int conf_set(Conf *c, const char *key, const char *value, const char *file, int line)
{
    size_t n_key = strlen(key), n;
    ssize_t r;

    while (is_blank(*value))
        value++;
    n = strlen(value);
    while (n > 0 && is_blank(value[n - 1]))
        n--;
    if (n_key == 0 || n_key > CONF_KEY_MAX || !utf8_is_valid(value, n) ||
        ends_in_continuation(value, n))
        return -EINVAL;
    for (size_t i = 0; i < n_key; i++)
        if (!is_key_char(key[i]))
            return -EINVAL;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)value[i] < ' ' && !is_blank(value[i]))
            return -EINVAL;
    r = put(c, key, value, n, file, line);
    return r < 0 ? (int)r : 0;
}

int conf_serialize(const Conf *c, Buf *out)
{
    for (size_t i = 0; i < c->n; i++) {
        const char *value = c->entries[i].value;
        size_t n = strlen(value);
        /* A backslash at the very end of a line would continue it; a blank behind it is trimmed again. */
        const char *end = n > 0 && value[n - 1] == '\\' ? " " : "";
        int r = buf_printf(out, "%s = %s%s\n", c->entries[i].key, value, end);

        if (r < 0)
            return r;
    }
    return 0;
}
