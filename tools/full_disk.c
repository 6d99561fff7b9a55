/* Preloaded: after full_disk(n), writes to regular files fail with ENOSPC once n bytes have gone through. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

static long long left = -1; /* below 0: no limit */

void full_disk(long long bytes) { left = bytes; }

static int refuse(int descriptor, size_t *count) {
    struct stat status;
    if (left < 0 || fstat(descriptor, &status) || !S_ISREG(status.st_mode)) return 0;
    if (left == 0) return errno = ENOSPC, 1;
    if ((long long)*count > left) *count = (size_t)left; /* a short write first, as a file system does */
    left -= (long long)*count;
    return 0;
}

ssize_t write(int descriptor, const void *from, size_t count) {
    static ssize_t (*next)(int, const void *, size_t);
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, "write");
    return refuse(descriptor, &count) ? -1 : next(descriptor, from, count);
}

ssize_t writev(int descriptor, const struct iovec *parts, int number) {
    for (int i = 0; i < number; i++)
        if (parts[i].iov_len) return write(descriptor, parts[i].iov_base, parts[i].iov_len);
    return 0;
}

ssize_t pwrite64(int descriptor, const void *from, size_t count, off64_t at) {
    static ssize_t (*next)(int, const void *, size_t, off64_t);
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, "pwrite64");
    return refuse(descriptor, &count) ? -1 : next(descriptor, from, count, at);
}
