/* Faults of a disk and of a clock for one process, by LD_PRELOAD: cc -shared -fPIC -O1 -o shim.so shim.c -ldl
 *
 * Nothing happens until torture_arm(RULES) is called, or TORTURE_SHIM is set when the first call is seen. RULES is a
 * list, separated by ';', of
 *
 *     OPS|PATH|SKIP|COUNT|EFFECT[|MARK]
 *
 * OPS     of: write read sync rename open make remove, separated by ','; "open" means opening for writing.
 * PATH    must be part of the file's path.
 * SKIP    matching calls that pass first.
 * COUNT   calls that then fail; -1: all later ones.
 * EFFECT  eNUMBER: the call fails with that errno; short: a write or read takes half of the bytes; sNUMBER: the process
 *         gets that signal before the call, which is made.
 * MARK    a file that is made when the rule first acts.
 *
 * A rule "clock||0|0|SECONDS" adds seconds to the system's time (not to the monotonic clock).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITE = 1, READ = 2, SYNC = 4, RENAME = 8, OPEN = 16, MAKE = 32, REMOVE = 64 };
static const char *const NAMES[] = {"write", "read", "sync", "rename", "open", "make", "remove"};

#define RULES 8
#define SHORT (-1)
#define PASS (-2)
typedef struct {
    int ops, effect, sig, marked; /* effect: an errno, SHORT, or PASS with a signal */
    char path[512], mark[512];
    long skip, count;
} rule;
static rule rules[RULES];
static int armed, asked;
static long shift;

#define REAL(name) ((typeof(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

void torture_arm(const char *text) {
    char copy[8192], *rest = copy, *one;
    asked = 1;
    armed = 0;
    shift = 0;
    strncpy(copy, text, sizeof copy - 1);
    copy[sizeof copy - 1] = 0;
    while ((one = strsep(&rest, ";")) && armed < RULES) {
        char *ops = strsep(&one, "|"), *path = strsep(&one, "|"), *skip = strsep(&one, "|"), *count = strsep(&one, "|");
        char *effect = strsep(&one, "|"), *mark = one;
        if (!effect) continue;
        if (!strcmp(ops, "clock")) {
            shift = atol(effect);
            continue;
        }
        rule *r = &rules[armed];
        memset(r, 0, sizeof *r);
        for (int i = 0; i < 7; i++)
            if (strstr(ops, NAMES[i])) r->ops |= 1 << i;
        strncpy(r->path, path, sizeof r->path - 1);
        if (mark) strncpy(r->mark, mark, sizeof r->mark - 1);
        r->skip = atol(skip);
        r->count = atol(count);
        r->effect = *effect == 'e' ? atoi(effect + 1) : !strcmp(effect, "short") ? SHORT : PASS;
        r->sig = r->effect == PASS ? atoi(effect + 1) : 0;
        armed++;
    }
}

static void ask(void) {
    const char *text;
    if (asked) return;
    asked = 1;
    if ((text = getenv("TORTURE_SHIM"))) torture_arm(text);
}

/* 0: make the call; SHORT; or an errno */
static int judge(int op, const char *path) {
    ask();
    if (!armed || !path) return 0;
    for (int i = 0; i < armed; i++) {
        rule *r = &rules[i];
        if (!(r->ops & op) || !strstr(path, r->path)) continue;
        if (__atomic_fetch_sub(&r->skip, 1, __ATOMIC_SEQ_CST) > 0) continue;
        if (r->count >= 0 && __atomic_fetch_sub(&r->count, 1, __ATOMIC_SEQ_CST) <= 0) {
            r->count = 0;
            continue;
        }
        if (*r->mark && !__atomic_exchange_n(&r->marked, 1, __ATOMIC_SEQ_CST)) {
            long fd = syscall(SYS_openat, AT_FDCWD, r->mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
            if (fd >= 0) {
                syscall(SYS_write, fd, path, strlen(path));
                syscall(SYS_close, fd);
            }
        }
        if (r->sig) {
            kill(getpid(), r->sig);
            continue;
        }
        return r->effect;
    }
    return 0;
}

static int judge_fd(int op, int fd) {
    char link[64], path[PATH_MAX];
    ask();
    if (!armed) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return judge(op, path);
}

/* relative paths are made absolute by the working directory; those of a directory's descriptor by that */
static int judge_at(int op, int dir, const char *path) {
    char link[64], full[PATH_MAX * 2];
    ask();
    if (!armed || !path) return 0;
    if (*path == '/') return judge(op, path);
    snprintf(link, sizeof link, dir == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dir);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, full, PATH_MAX - 1);
    if (n < 0) return 0;
    snprintf(full + n, sizeof full - n, "/%s", path);
    return judge(op, full);
}

#define FAIL(what, value)               \
    do {                                \
        int effect_ = what;             \
        if (effect_ > 0) {              \
            errno = effect_;            \
            return value;               \
        }                               \
    } while (0)

ssize_t write(int fd, const void *data, size_t n) {
    int effect = judge_fd(WRITE, fd);
    FAIL(effect, -1);
    return REAL(write)(fd, data, effect == SHORT && n > 1 ? n / 2 : n);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    int effect = judge_fd(WRITE, fd);
    FAIL(effect, -1);
    return REAL(pwrite64)(fd, data, effect == SHORT && n > 1 ? n / 2 : n, at);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return pwrite64(fd, data, n, at); }
ssize_t writev(int fd, const struct iovec *parts, int n) {
    int effect = judge_fd(WRITE, fd);
    FAIL(effect, -1);
    if (effect == SHORT) return REAL(write)(fd, parts->iov_base, parts->iov_len > 1 ? parts->iov_len / 2 : parts->iov_len);
    return REAL(writev)(fd, parts, n);
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t n) {
    FAIL(judge_fd(WRITE, out), -1);
    return REAL(sendfile64)(out, in, at, n);
}
ssize_t sendfile(int out, int in, off_t *at, size_t n) { return sendfile64(out, in, at, n); }
ssize_t copy_file_range(int in, off64_t *a, int out, off64_t *b, size_t n, unsigned flags) {
    FAIL(judge_fd(WRITE, out), -1);
    return REAL(copy_file_range)(in, a, out, b, n, flags);
}
int ftruncate64(int fd, off64_t n) {
    FAIL(judge_fd(WRITE, fd), -1);
    return REAL(ftruncate64)(fd, n);
}
int ftruncate(int fd, off_t n) { return ftruncate64(fd, n); }

ssize_t read(int fd, void *data, size_t n) {
    int effect = judge_fd(READ, fd);
    FAIL(effect, -1);
    return REAL(read)(fd, data, effect == SHORT && n > 1 ? n / 2 : n);
}
ssize_t pread64(int fd, void *data, size_t n, off64_t at) {
    int effect = judge_fd(READ, fd);
    FAIL(effect, -1);
    return REAL(pread64)(fd, data, effect == SHORT && n > 1 ? n / 2 : n, at);
}
ssize_t pread(int fd, void *data, size_t n, off_t at) { return pread64(fd, data, n, at); }
ssize_t preadv64(int fd, const struct iovec *parts, int n, off64_t at) {
    int effect = judge_fd(READ, fd);
    FAIL(effect, -1);
    if (effect == SHORT) return REAL(pread64)(fd, parts->iov_base, parts->iov_len / 2, at);
    return REAL(preadv64)(fd, parts, n, at);
}
ssize_t preadv(int fd, const struct iovec *parts, int n, off_t at) { return preadv64(fd, parts, n, at); }
ssize_t preadv64v2(int fd, const struct iovec *parts, int n, off64_t at, int flags) {
    int effect = judge_fd(READ, fd);
    FAIL(effect, -1);
    if (effect == SHORT) return REAL(pread64)(fd, parts->iov_base, parts->iov_len / 2, at);
    return REAL(preadv64v2)(fd, parts, n, at, flags);
}
ssize_t preadv2(int fd, const struct iovec *parts, int n, off_t at, int flags) {
    return preadv64v2(fd, parts, n, at, flags);
}

int fsync(int fd) {
    FAIL(judge_fd(SYNC, fd), -1);
    return REAL(fsync)(fd);
}
int fdatasync(int fd) {
    FAIL(judge_fd(SYNC, fd), -1);
    return REAL(fdatasync)(fd);
}

int rename(const char *from, const char *to) {
    FAIL(judge_at(RENAME, AT_FDCWD, to), -1);
    return REAL(rename)(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    FAIL(judge_at(RENAME, b, to), -1);
    return REAL(renameat)(a, from, b, to);
}

static int opening(int dir, const char *path, int flags) {
    return judge_at(flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC) ? OPEN : 0, dir, path);
}
#define MODE(last)                        \
    mode_t mode = 0;                      \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list args;                     \
        va_start(args, last);             \
        mode = va_arg(args, mode_t);      \
        va_end(args);                     \
    }
int open64(const char *path, int flags, ...) {
    MODE(flags)
    FAIL(opening(AT_FDCWD, path, flags), -1);
    return REAL(open64)(path, flags, mode);
}
int open(const char *path, int flags, ...) {
    MODE(flags)
    FAIL(opening(AT_FDCWD, path, flags), -1);
    return REAL(open64)(path, flags, mode);
}
int openat64(int dir, const char *path, int flags, ...) {
    MODE(flags)
    FAIL(opening(dir, path, flags), -1);
    return REAL(openat64)(dir, path, flags, mode);
}
int openat(int dir, const char *path, int flags, ...) {
    MODE(flags)
    FAIL(opening(dir, path, flags), -1);
    return REAL(openat64)(dir, path, flags, mode);
}
FILE *fopen64(const char *path, const char *how) {
    FAIL(*how == 'r' && how[1] != '+' ? 0 : judge_at(OPEN, AT_FDCWD, path), NULL);
    return REAL(fopen64)(path, how);
}
FILE *fopen(const char *path, const char *how) { return fopen64(path, how); }

int mkdir(const char *path, mode_t mode) {
    FAIL(judge_at(MAKE, AT_FDCWD, path), -1);
    return REAL(mkdir)(path, mode);
}
int mkdirat(int dir, const char *path, mode_t mode) {
    FAIL(judge_at(MAKE, dir, path), -1);
    return REAL(mkdirat)(dir, path, mode);
}
int unlink(const char *path) {
    FAIL(judge_at(REMOVE, AT_FDCWD, path), -1);
    return REAL(unlink)(path);
}
int unlinkat(int dir, const char *path, int flags) {
    FAIL(judge_at(REMOVE, dir, path), -1);
    return REAL(unlinkat)(dir, path, flags);
}
int rmdir(const char *path) {
    FAIL(judge_at(REMOVE, AT_FDCWD, path), -1);
    return REAL(rmdir)(path);
}
/* a disk that is read-only says so here, too */
int access(const char *path, int how) {
    if (how & W_OK) FAIL(judge_at(OPEN, AT_FDCWD, path), -1);
    return REAL(access)(path, how);
}
int faccessat(int dir, const char *path, int how, int flags) {
    if (how & W_OK) FAIL(judge_at(OPEN, dir, path), -1);
    return REAL(faccessat)(dir, path, how, flags);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = REAL(clock_gettime)(clock, now);
    ask();
    if (!failed && shift && clock == CLOCK_REALTIME) now->tv_sec += shift;
    return failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int failed = REAL(gettimeofday)(now, zone);
    ask();
    if (!failed && shift) now->tv_sec += shift;
    return failed;
}
time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into) *into = now.tv_sec;
    return now.tv_sec;
}
