#pragma once

/*
 * The other road: bootstrap.servers = host:port goes through librdkafka, with its threads. Same calls, same meanings; what
 * a session alone can do (claims, raw requests) is refused with -ENOTSUP at the public function (D27).
 *
 *   tcp.c           conf, the client's handle, topics, sleeping
 *   tcp_producer.c  tcp_consumer.c  tcp_admin.c
 *
 * One rd_kafka_t for each producer and consumer; metadata and admin go through a producer's, or one more made when needed. All callbacks run
 * inside our own calls: nothing of ours is called from a foreign thread. Queues signal an eventfd in the client's epoll set.
 */

#include "client/consumer.h"
#include "client/producer.h"

#include <librdkafka/rdkafka.h>

struct TcpRoad {
    rd_kafka_t *handle; /* metadata and admin */
    rd_kafka_conf_t *base; /* what all handles share */
    int wake_fd;
    bool down; /* all brokers, as far as librdkafka knows */
};

int tcp_client_new(leat_client *c, const leat_conf *conf);
void tcp_client_free(leat_client *c);
int tcp_turn(leat_client *c);
int tcp_sleep(leat_client *c, int64_t timeout_ms); /* -EINTR */
bool tcp_is_connected(const leat_client *c);
int tcp_topic_open(leat_topic *t);

/* For the tcp_*.c files */
rd_kafka_t *tcp_handle(leat_client *c); /* NULL: error text set */
int tcp_error(rd_kafka_resp_err_t e);   /* negative errno; 0 for no error */
int tcp_fail(leat_client *c, rd_kafka_resp_err_t e, const char *what);
/* conf of one handle: shared part, ours in librdkafka's names, the program's own properties. Return NULL: error text set. */
rd_kafka_conf_t *tcp_conf(leat_client *c, const leat_conf *conf, const Settings *s, rd_kafka_type_t type);
void tcp_signal(leat_client *c, rd_kafka_queue_t *queue);

int tcp_producer_new(leat_producer *p, const leat_conf *conf);
void tcp_producer_free(leat_producer *p);
rd_kafka_t *tcp_producer_handle(const leat_producer *p); /* NULL while there is none */
void tcp_producer_turn(leat_producer *p);
int tcp_produce(leat_producer *p, const leat_message *m);
int tcp_flush(leat_producer *p, int64_t timeout_ms);
uint64_t tcp_in_flight(const leat_producer *p);

int tcp_consumer_new(leat_consumer *k, const leat_conf *conf);
void tcp_consumer_free(leat_consumer *k);
int tcp_subscribe(leat_consumer *k, const char *const *topics, size_t n);
int tcp_unsubscribe(leat_consumer *k);
int tcp_assign(leat_consumer *k, const leat_partition *partitions, size_t n);
bool tcp_has_records(const leat_consumer *k);
int tcp_poll(leat_consumer *k, int64_t timeout_ms, leat_record *ret, size_t n_max);
int tcp_seek(leat_consumer *k, const char *topic, int32_t partition, int64_t offset);
int tcp_pause(leat_consumer *k, const char *topic, int32_t partition, bool pause);
int64_t tcp_position(const leat_consumer *k, const char *topic, int32_t partition);
int tcp_commit_offsets(leat_consumer *k, const leat_partition *items, size_t n, int64_t timeout_ms);
int tcp_committed(leat_consumer *k, leat_partition *inout, size_t n, int64_t timeout_ms);
size_t tcp_assignment(const leat_consumer *k, leat_partition *ret, size_t n_max);
bool tcp_at_end(const leat_consumer *k);

int tcp_topic_create(leat_client *c, const char *name, int32_t partitions, int16_t replicas, const leat_config_item *configs,
                     size_t n, int64_t timeout_ms);
int tcp_topic_delete(leat_client *c, const char *name, int64_t timeout_ms);
int tcp_topic_grow(leat_client *c, const char *name, int32_t partitions, int64_t timeout_ms);
int tcp_topic_configure(leat_client *c, const char *name, const leat_config_item *configs, size_t n, int64_t timeout_ms);
int tcp_list_offsets(leat_client *c, leat_partition *inout, size_t n, int64_t timeout_ms);
int tcp_delete_records(leat_client *c, leat_partition *before, size_t n, int64_t timeout_ms);
