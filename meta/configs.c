/* MetaConfigs: a small set of name and value, sorted by name (strcmp), one entry per name. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "meta/image_private.h"

static int compare(const char *a, KStr b)
{
    size_t n = strlen(a), m = (size_t)b.len;
    int r = memcmp(a, b.ptr, MIN(n, m));
    return r ? r : (n > m) - (n < m);
}

static bool find(const MetaConfigs *configs, KStr name, size_t *ret_at)
{
    size_t low = 0, high = configs->n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        int c = compare(configs->items[mid].name, name);
        if (c == 0) {
            *ret_at = mid;
            return true;
        }
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    *ret_at = low;
    return false;
}

const char *meta_config_value(const MetaConfigs *configs, const char *name)
{
    size_t at;
    return find(configs, k_str(name), &at) ? configs->items[at].value : NULL;
}

static void remove_at(MetaConfigs *configs, size_t at)
{
    free(configs->items[at].name);
    free(configs->items[at].value);
    memmove(&configs->items[at], &configs->items[at + 1], (configs->n - at - 1) * sizeof(configs->items[0]));
    configs->n--;
}

int meta_configs_set(MetaConfigs *configs, KStr name, KStr value)
{
    size_t at;
    bool found = find(configs, name, &at);
    if (value.len < 0) {
        if (found)
            remove_at(configs, at);
        return 0;
    }
    char *text = strndup(value.ptr, (size_t)value.len);
    if (!text)
        return -ENOMEM;
    if (found) {
        free(configs->items[at].value);
        configs->items[at].value = text;
        return 0;
    }
    char *key = strndup(name.ptr, (size_t)name.len);
    MetaConfig *items = key ? realloc(configs->items, (configs->n + 1) * sizeof(*items)) : NULL;
    if (!items) {
        free(text);
        free(key);
        return -ENOMEM;
    }
    configs->items = items;
    memmove(&items[at + 1], &items[at], (configs->n - at) * sizeof(*items));
    items[at] = (MetaConfig){.name = key, .value = text};
    configs->n++;
    return 0;
}

void meta_configs_clear(MetaConfigs *configs)
{
    while (configs->n > 0)
        remove_at(configs, configs->n - 1);
    free(configs->items);
    *configs = (MetaConfigs){0};
}
