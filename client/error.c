/* The border between Kafka's error numbers and errno. One table; what is not in it is -EIO, and leat_kafka_error() tells. */

#include "client/client.h"
#include "wire/error.h"

#include <errno.h>
#include <string.h>

int error_from_kafka(int16_t kafka_error)
{
    switch (kafka_error) {
    case K_NONE:
        return 0;
    case K_OFFSET_OUT_OF_RANGE:
        return -ERANGE;
    case K_CORRUPT_MESSAGE:
    case K_INVALID_RECORD:
        return -EBADMSG;
    case K_UNKNOWN_TOPIC_OR_PARTITION:
    case K_UNKNOWN_TOPIC_ID:
    case K_GROUP_ID_NOT_FOUND:
    case K_RESOURCE_NOT_FOUND:
        return -ENOENT;
    case K_TOPIC_ALREADY_EXISTS:
        return -EEXIST;
    case K_MESSAGE_TOO_LARGE:
    case K_RECORD_LIST_TOO_LARGE:
    case K_OFFSET_METADATA_TOO_LARGE:
        return -EMSGSIZE;
    case K_REQUEST_TIMED_OUT:
        return -ETIMEDOUT;
    case K_TOPIC_AUTHORIZATION_FAILED:
    case K_GROUP_AUTHORIZATION_FAILED:
    case K_CLUSTER_AUTHORIZATION_FAILED:
    case K_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
        return -EACCES;
    case K_POLICY_VIOLATION:
    case K_TOPIC_DELETION_DISABLED:
        return -EPERM;
    case K_UNSUPPORTED_VERSION:
    case K_UNSUPPORTED_COMPRESSION_TYPE:
        return -EOPNOTSUPP;
    case K_INVALID_TOPIC_EXCEPTION:
    case K_INVALID_REQUIRED_ACKS:
    case K_INCONSISTENT_GROUP_PROTOCOL:
    case K_INVALID_GROUP_ID:
    case K_INVALID_SESSION_TIMEOUT:
    case K_INVALID_TIMESTAMP:
    case K_INVALID_PARTITIONS:
    case K_INVALID_REPLICATION_FACTOR:
    case K_INVALID_REPLICA_ASSIGNMENT:
    case K_INVALID_CONFIG:
    case K_INVALID_REQUEST:
        return -EINVAL;
    case K_ILLEGAL_GENERATION:
    case K_UNKNOWN_MEMBER_ID:
    case K_FENCED_INSTANCE_ID:
    case K_REBALANCE_IN_PROGRESS:
        return -ESTALE;
    case K_NON_EMPTY_GROUP:
    case K_GROUP_SUBSCRIBED_TO_TOPIC:
    case K_GROUP_MAX_SIZE_REACHED:
        return -EBUSY;
    case K_LEADER_NOT_AVAILABLE:
    case K_NOT_LEADER_OR_FOLLOWER:
    case K_NOT_CONTROLLER:
    case K_COORDINATOR_LOAD_IN_PROGRESS:
    case K_COORDINATOR_NOT_AVAILABLE:
    case K_NOT_COORDINATOR:
        return -EAGAIN;
    default:
        return -EIO;
    }
}

PUBLIC const char *leat_strerror(int error)
{
    if (error == 0)
        return "success";
    if (error < 0)
        return strerrordesc_np(-error) ? strerrordesc_np(-error) : "unknown error";
    return error <= INT16_MAX ? k_error_message((KafkaError)error) : "unknown error";
}

PUBLIC const char *leat_version(void)
{
    return LEAT_VERSION;
}
