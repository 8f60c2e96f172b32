/* Prints the records of a topic as a member of a group: consumer BOOTSTRAP TOPIC GROUP. Ends with Ctrl-C. */

#include <leat/leat.h>
#include <signal.h>
#include <stdio.h>

static volatile sig_atomic_t stopping;

static void on_signal(int signal_number)
{
    (void)signal_number;
    stopping = 1;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: consumer BOOTSTRAP TOPIC GROUP\n");
        return 64;
    }
    sigaction(SIGINT, &(struct sigaction){.sa_handler = on_signal}, NULL); /* no SA_RESTART: leat_poll() returns */

    leat_conf *conf = leat_conf_new();
    leat_conf_set(conf, "bootstrap.servers", argv[1]);
    leat_conf_set(conf, "group.id", argv[3]);
    leat_conf_set(conf, "auto.offset.reset", "earliest");

    leat_consumer *consumer = NULL;
    const char *topic = argv[2];
    int r = leat_consumer_new(conf, &consumer);
    leat_conf_free(conf);
    if (r == 0)
        r = leat_subscribe(consumer, &topic, 1);

    static leat_record records[256];
    while (r >= 0 && !stopping) {
        r = leat_poll(consumer, 1000, records, 256);
        for (int i = 0; i < r; i++) /* pointers are valid until the next leat_poll() */
            printf("%s-%d@%lld %.*s\n", leat_topic_name(records[i].topic), records[i].partition, (long long)records[i].offset,
                   records[i].value_size < 0 ? 0 : (int)records[i].value_size, (const char *)records[i].value);
        fflush(stdout);
    }
    if (r < 0)
        fprintf(stderr, "consumer: %s: %s\n", leat_strerror(r), leat_error_text(consumer ? leat_consumer_client(consumer) : NULL));
    leat_consumer_close(consumer); /* commits what was read and leaves the group */
    return r < 0;
}
