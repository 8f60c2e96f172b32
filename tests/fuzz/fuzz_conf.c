/*
 * Arbitrary bytes as a configuration file: the parser, the check against the catalogue, and the round trip that hands a
 * configuration to a child. What parsed must serialize to something that parses to the same entries.
 */

#include "base/conf.h"
#include "meta/config_keys.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Conf c = {0}, again = {0};
    Buf text = BUF_NULL, report = BUF_NULL;
    ConfError error;
    int r = conf_parse_buffer(&c, "fuzz.conf", (const char *)data, size, &error);

    require(r <= 0);
    if (r == -EBADMSG)
        require(strncmp(error.text, "fuzz.conf:", 10) == 0); /* says where */
    if (r == 0) {
        require(config_check(&c, &report) >= 0);
        require(conf_serialize(&c, &text) == 0);
        require(conf_parse_buffer(&again, "again.conf", (const char *)text.data, text.size, &error) == 0);
        require(again.n == c.n);
        for (size_t i = 0; i < c.n; i++) {
            const ConfEntry *e = conf_find(&again, c.entries[i].key);
            require(e && strcmp(e->value, c.entries[i].value) == 0);
        }
    }
    buf_deinit(&report);
    buf_deinit(&text);
    conf_deinit(&again);
    conf_deinit(&c);
    return 0;
}
