/* Private keys on disk (crypto/key_file.h): PEM PKCS#8, mode 0600, never overwritten. Buffers with
 * a key in them are cleared before they are freed. */
#include "crypto/key_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/memory.h"

static enum status check_access(int descriptor, const char *path, bool any_owner,
                                struct error *error) {
    struct stat info;
    if (fstat(descriptor, &info) != 0)
        return error_set(error, FAILED, "stat %s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode)) return error_set(error, INVALID, "%s is not a regular file", path);
    if (info.st_mode & 077) {
        return error_set(error, INVALID,
                         "%s is open to others (mode %03o): chmod 600 it, or make a new key if "
                         "they may have read it",
                         path, (unsigned)info.st_mode & 0777);
    }
    if (!any_owner && info.st_uid != geteuid() && info.st_uid != 0) {
        return error_set(error, INVALID, "%s belongs to user %u, not to this one", path,
                         (unsigned)info.st_uid);
    }
    if (info.st_size > KEY_FILE_SIZE_MAX) {
        return error_set(error, INVALID, "%s has %lld bytes: not a key", path,
                         (long long)info.st_size);
    }
    return OK;
}

enum status key_file_read(const char *path, bool any_owner, struct buffer *out,
                          struct error *error) {
    /* O_NONBLOCK: a FIFO of that name must not make the program wait. */
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) {
        return error_set(error, errno == ENOENT ? NOT_FOUND : FAILED, "open the key file %s: %s",
                         path, strerror(errno));
    }
    uint8_t content[KEY_FILE_SIZE_MAX + 1];
    size_t size = 0;
    enum status status = check_access(descriptor, path, any_owner, error);
    while (status == OK && size < sizeof content) {
        ssize_t got = read(descriptor, content + size, sizeof content - size);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) status = error_set(error, FAILED, "read %s: %s", path, strerror(errno));
        if (got <= 0) break;
        size += (size_t)got;
    }
    close(descriptor);
    if (status == OK && size > KEY_FILE_SIZE_MAX)
        status = error_set(error, INVALID, "%s grew while it was read: not a key", path);
    if (status == OK) buffer_append(out, content, size);
    clear(content, sizeof content);
    return status;
}

enum status key_file_load(const char *path, struct key_pair **out, struct error *error) {
    struct buffer pem = {0};
    TRY(key_file_read(path, false, &pem, error));
    enum status status = key_pair_from_pem(buffer_bytes(&pem), out, error);
    if (status != OK) error_wrap(error, status, "%s", path);
    free_clearing(pem.data, pem.capacity);
    return status;
}

enum status key_file_save(const char *path, const struct key_pair *key, struct error *error) {
    struct stat info;
    if (lstat(path, &info) == 0)
        return error_set(error, INVALID, "%s is there already; keys are not overwritten", path);
    struct buffer pem = {0};
    enum status status = key_pair_to_pem(key, &pem, error);
    if (status == OK) status = file_write(path, buffer_bytes(&pem), 0600, error);
    free_clearing(pem.data, pem.capacity);
    return status;
}

enum status key_file_open(const char *path, struct key_pair **out, bool *created,
                          struct error *error) {
    enum status status = key_file_load(path, out, error);
    if (status != NOT_FOUND) {
        if (status == OK) *created = false;
        return status;
    }
    struct key_pair *key = NULL;
    TRY(key_pair_create(&key, error));
    status = key_file_save(path, key, error);
    if (status != OK) {
        key_pair_destroy(key);
        return status;
    }
    *out = key;
    *created = true;
    return OK;
}
