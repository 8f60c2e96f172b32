/* Sends the lines of standard input to a topic: producer BOOTSTRAP TOPIC, e.g. producer unix:/run/leat/main/client.sock demo */

#include <errno.h>
#include <leat/leat.h>
#include <stdio.h>
#include <string.h>

static int failed(leat_client *client, const char *what, int error)
{
    fprintf(stderr, "producer: %s: %s: %s\n", what, leat_strerror(error), leat_error_text(client));
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: producer BOOTSTRAP TOPIC < LINES\n");
        return 64;
    }
    leat_conf *conf = leat_conf_new();
    leat_conf_set(conf, "bootstrap.servers", argv[1]);

    leat_producer *producer = NULL;
    int r = leat_producer_new(conf, &producer);
    leat_conf_free(conf);
    if (r < 0)
        return failed(NULL, argv[1], r);

    leat_client *client = leat_producer_client(producer);
    leat_topic *topic = NULL;
    r = leat_topic_open(client, argv[2], &topic);
    if (r < 0)
        return failed(client, argv[2], r);

    static char line[65536];
    while (fgets(line, sizeof line, stdin)) {
        leat_message m = LEAT_MESSAGE_INIT;
        m.topic = topic;
        m.value = line;
        m.value_size = (ptrdiff_t)strcspn(line, "\n");
        while ((r = leat_produce(producer, &m)) == -EAGAIN) /* full: wait for acknowledgements */
            leat_wait(client, 1000);
        if (r < 0)
            return failed(client, "produce", r);
    }
    r = leat_flush(producer, 30000);
    if (r < 0)
        return failed(client, "flush", r);
    leat_producer_close(producer, NULL);
    return 0;
}
