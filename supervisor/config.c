/* See config.h. Children never see a configuration that config_check() has not passed. */

#include "supervisor/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

#define VENDOR_DIR   "/usr/lib/leat/conf.d"
#define ENV_NAME_MAX 300
#define FROM_ENV     "environment"
#define FROM_SET     "--set"

static void env_name(const char *key, char out[ENV_NAME_MAX])
{
    size_t n = (size_t)snprintf(out, ENV_NAME_MAX, "LEAT_");

    for (; *key != '\0' && n + 1 < ENV_NAME_MAX; key++, n++)
        out[n] = *key == '.' || *key == '-' ? '_' : (char)toupper((unsigned char)*key);
    out[n] = '\0';
}

static int take_environment(Conf *conf, Buf *out)
{
    const ConfigKey *key;

    for (size_t i = 0; (key = config_key_at(i)) != NULL; i++) {
        char name[ENV_NAME_MAX];
        const char *value;
        int r;

        env_name(key->name, name);
        value = getenv(name);
        if (value == NULL || (key->scope & CONFIG_SCOPE_BROKER) == 0)
            continue;
        r = conf_set(conf, key->name, value, FROM_ENV, 0);
        if (r == -EINVAL) {
            (void)buf_printf(out, FROM_ENV ": error: %s: not a value of one line\n", name);
            return -EBADMSG;
        }
        if (r < 0)
            return r;
    }
    return 0;
}

static int take_sets(const Options *o, Conf *conf, Buf *out)
{
    for (size_t i = 0; i < o->n_sets; i++) {
        const char *equals = strchr(o->sets[i], '=');
        _cleanup_(base_freep) char *key = strndup(o->sets[i], (size_t)(equals - o->sets[i]));
        int r = key == NULL ? -ENOMEM : conf_set(conf, key, equals + 1, FROM_SET, 0);

        if (r == -EINVAL || r == -E2BIG) {
            (void)buf_printf(out, FROM_SET ": error: %s: not a key and a value of one line\n",
                             o->sets[i]);
            return -EBADMSG;
        }
        if (r < 0)
            return r;
    }
    return 0;
}

static int parse_files(const Options *o, Conf *conf, ConfError *error)
{
    char dir[PATH_MAX + 8];
    int r = 0;

    if (o->installed)
        r = conf_parse_dir(conf, VENDOR_DIR, error);
    if (r == 0 && o->config_path[0] != '\0')
        r = conf_parse_tree(conf, o->config_path, error);
    if (r == 0 && o->installed) {
        (void)snprintf(dir, sizeof(dir), "%s/conf.d", o->run_dir);
        r = conf_parse_dir(conf, dir, error);
    }
    return r;
}

int node_config_load(const Options *o, Conf *ret, Buf *out)
{
    _cleanup_(conf_deinit) Conf conf = {0};
    ConfError error = {""};
    int r = parse_files(o, &conf, &error);

    if (r < 0 && r != -ENOMEM) {
        (void)buf_printf(out, "%s\n", error.text);
        return -EBADMSG;
    }
    if (r == 0)
        r = take_environment(&conf, out);
    if (r == 0)
        r = take_sets(o, &conf, out);
    if (r < 0)
        return r;
    if (config_check(&conf, out) > 0)
        return -EBADMSG;
    *ret = conf;
    conf = (Conf){0};
    return 0;
}

static const char *value_of(const Conf *conf, const ConfigKey *key)
{
    return conf_get(conf, key->name, NULL);
}

/* Text that means the same is no change: "7d" and "604800000". */
static bool same_value(const ConfigKey *key, const char *a, const char *b)
{
    static char one[CONFIG_VALUE_MAX], two[CONFIG_VALUE_MAX];
    char why[64];

    if (a == NULL)
        a = key->fallback;
    if (b == NULL)
        b = key->fallback;
    if (a == NULL || b == NULL)
        return a == b;
    if (strcmp(a, b) == 0)
        return true;
    return config_normalize(key, a, one, sizeof(one), why, sizeof(why)) == 0 &&
           config_normalize(key, b, two, sizeof(two), why, sizeof(why)) == 0 &&
           strcmp(one, two) == 0;
}

void node_config_digest(const Conf *conf, char out[CONFIG_DIGEST_SIZE])
{
    uint64_t h = 0;
    const ConfigKey *key;

    for (size_t i = 0; (key = config_key_at(i)) != NULL;
         i++) { /* sorted: file order does not matter */
        const char *value = value_of(conf, key);
        uint64_t parts[3];

        if (value == NULL || same_value(key, value, NULL))
            continue;
        parts[0] = h;
        parts[1] = hash64(key->name, strlen(key->name));
        parts[2] = hash64(value, strlen(value));
        h = hash64(parts, sizeof(parts));
    }
    (void)snprintf(out, CONFIG_DIGEST_SIZE, "%016llx", (unsigned long long)h);
}

int node_config_diff(const Conf *before, const Conf *after, ConfigChange **ret, size_t *ret_n)
{
    ConfigChange *changes = NULL;
    const ConfigKey *key;
    size_t n = 0;

    for (size_t i = 0; (key = config_key_at(i)) != NULL; i++) {
        ConfigChange *grown;

        if ((key->scope & CONFIG_SCOPE_BROKER) == 0 || (key->scope & CONFIG_SCOPE_IGNORED) != 0 ||
            same_value(key, value_of(before, key), value_of(after, key)))
            continue;
        grown = realloc(changes, (n + 1) * sizeof(*changes));
        if (grown == NULL) {
            free(changes);
            return -ENOMEM;
        }
        changes = grown;
        changes[n++] = (ConfigChange){key, value_of(before, key), value_of(after, key)};
    }
    *ret = changes;
    *ret_n = n;
    return 0;
}

static bool waits_for_node(const char *name)
{
    const ConfigKey *key = config_key(name);

    return key != NULL && (key->effect == CONFIG_NODE || key->effect == CONFIG_FIXED);
}

int node_config_applicable(const Conf *before, const Conf *after, Conf *ret)
{
    _cleanup_(conf_deinit) Conf conf = {0};
    const Conf *sources[] = {after, before};
    int r = 0;

    for (size_t s = 0; s < ARRAY_SIZE(sources); s++)
        for (size_t i = 0; r == 0 && i < sources[s]->n; i++) {
            const ConfEntry *e = &sources[s]->entries[i];

            if (waits_for_node(e->key) == (sources[s] == before))
                r = conf_set(&conf, e->key, e->value, e->file, e->line);
        }
    if (r < 0)
        return r;
    *ret = conf;
    conf = (Conf){0};
    return 0;
}
