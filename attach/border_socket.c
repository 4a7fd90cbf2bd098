/* Unix sockets of the border (attach/border_socket.h). */
#include "attach/border_socket.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"

enum status border_socket_check(const char *path, struct error *error) {
    struct sockaddr_un address;
    struct stat there;
    if (strlen(path) == 0 || strlen(path) >= sizeof address.sun_path)
        return error_set(error, INVALID,
                         "the socket's path has %zu bytes, and %zu are the limit; give a shorter "
                         "one with --attach-socket: %.200s",
                         strlen(path), sizeof address.sun_path - 1, path);
    if (lstat(path, &there) == 0 && !S_ISSOCK(there.st_mode))
        return error_set(error, INVALID, "%.300s is there and is not a socket", path);
    return OK;
}

enum status border_socket_listen(const char *path, int *out, struct error *error) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    TRY(border_socket_check(path, error));
    /* under a name of the same length first: who finds the socket can connect to it */
    memcpy(address.sun_path, path, strlen(path));
    char *last = address.sun_path + strlen(path) - 1;
    *last = *last == '~' ? '_' : '~';
    (void)unlink(address.sun_path);
    *out = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*out < 0 || bind(*out, (struct sockaddr *)&address, sizeof address) != 0 ||
        chmod(address.sun_path, 0600) != 0 || listen(*out, 128) != 0 ||
        rename(address.sun_path, path) != 0)
        return error_set(error, FAILED, "listen at %.300s: %s", path, strerror(errno));
    return OK;
}

enum status border_token_create(const char *path, char out[static WIRE_TOKEN_SIZE + 1],
                                struct error *error) {
    uint8_t secret[WIRE_TOKEN_SIZE / 2];
    random_system(secret, sizeof secret);
    hex_encode(secret, sizeof secret, out);
    clear(secret, sizeof secret);
    return file_write(path, bytes_of(out, WIRE_TOKEN_SIZE), 0600, error);
}

bool border_token_is(const char *token, const char *told) {
    unsigned differs = 0;
    for (size_t i = 0; i < WIRE_TOKEN_SIZE; i++)
        differs |= (unsigned)(unsigned char)(token[i] ^ told[i]);
    return differs == 0;
}

bool border_socket_send(int descriptor, const void *data, size_t size,
                        const int passed[BORDER_PASSED_LIMIT]) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(BORDER_PASSED_LIMIT * sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    size_t count = 0;
    while (passed && count < BORDER_PASSED_LIMIT && passed[count] >= 0) count++;
    if (count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(header), passed, count * sizeof(int));
    }
    return descriptor >= 0 &&
           sendmsg(descriptor, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)size;
}

ssize_t border_socket_receive(int descriptor, void *out, size_t size,
                              int passed[BORDER_PASSED_LIMIT]) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(BORDER_PASSED_LIMIT * sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = out, .iov_len = size};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    passed[0] = passed[1] = -1;
    ssize_t got = recvmsg(descriptor, &message, MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC);
    struct cmsghdr *header = got >= 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
        memcpy(passed, CMSG_DATA(header),
               MIN(header->cmsg_len - CMSG_LEN(0), BORDER_PASSED_LIMIT * sizeof(int)));
    return got;
}
