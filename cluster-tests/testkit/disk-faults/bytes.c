/*
 * Bytes and lengths: syncs, writes, and what shortens a file.
 *
 * Delays and refusals are made here. A refused call does not reach the system; a delayed one reaches it afterwards, so
 * that what is cut meanwhile was not yet promised.
 */
#include "watch.h"

/* === syncs === */

enum sync_kind { FILE_FSYNC = 0, FILE_FDATASYNC = 1, FOLDER_SYNC = 2 };

static uint64_t now_ns(void)
{
    struct timespec now = {0, 0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static void pause_us(uint64_t us)
{
    struct timespec left = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

static void log_sync(uint64_t begun_number, uint64_t begun_ns, const struct stat *then, enum sync_kind kind)
{
    uint64_t number = count(&control->syncs_done);
    if (get(&control->log_syncs) == 0) {
        return;
    }
    struct ring_entry *entry = &control->ring[number % RING_MAX];
    set(&entry->number, 0);
    set(&entry->begun_number, begun_number);
    set(&entry->begun_ns, begun_ns);
    set(&entry->ended_ns, now_ns());
    set(&entry->inode, then->st_ino);
    set(&entry->length, (uint64_t)then->st_size);
    set(&entry->pid, get(&attach()->pid));
    set(&entry->kind, kind);
    set(&entry->number, number);
}

/*
 * One fsync or fdatasync. What it promises is what was there when it began: the names journalled before `began`, and
 * the length before the delay, because what others append meanwhile may or may not be caught by it.
 */
static int do_sync(int fd, bool data_only)
{
    int (*real)(int) = data_only ? NEXT(fdatasync) : NEXT(fsync);
    int before = errno;
    struct stat then;
    uint64_t began = control != NULL ? get(&control->sequence) : 0;
    if (!ours(fd, &then)) {
        errno = before;
        return real(fd);
    }
    struct slot *slot = attach();
    bool is_folder = S_ISDIR(then.st_mode);
    uint64_t begun_number = count(&control->syncs_begun);
    uint64_t begun_ns = now_ns();
    add(data_only ? &slot->fdatasyncs : &slot->fsyncs, 1);
    enum ending ending = begin_call_on(SYNCS, fd);
    struct file *file = is_folder ? NULL : find_file(then.st_ino, (uint64_t)then.st_size);
    if (file != NULL) {
        set(&file->overwrite_noted, 0);
    }
    uint64_t delay_us = get(&control->sync_delay_us);
    if (delay_us > 0) {
        pause_us(delay_us);
    }
    if (get(&control->sync_failures_left) > 0 && is_meant(fd) && take(&control->sync_failures_left)) {
        add(&slot->failed_syncs, 1);
        errno = (int)get(&control->sync_errno);
        return -1;
    }
    errno = before;
    if (real(fd) != 0) {
        return -1;
    }
    struct record record = {.kind = is_folder ? FOLDER_SYNCED : FILE_SYNCED, .inode = then.st_ino, .began = began};
    record.other = is_folder ? 0 : (uint64_t)then.st_size;
    append(record, NULL, NULL);
    if (is_folder) {
        purge(then.st_ino, began);
    } else if (file != NULL) {
        set(&file->synced_bytes, (uint64_t)then.st_size);
    }
    log_sync(begun_number, begun_ns, &then, is_folder ? FOLDER_SYNC : data_only ? FILE_FDATASYNC : FILE_FSYNC);
    end_call(ending);
    errno = before;
    return 0;
}

INSTEAD int fsync(int fd)
{
    return do_sync(fd, false);
}

INSTEAD int fdatasync(int fd)
{
    return do_sync(fd, true);
}

/* === writes === */

struct writing {
    struct slot *slot; /* NULL: not ours */
    struct file *overwritten;
    size_t allowed;
    enum ending ending;
    int before;
};

/* What stands before a write of `count` bytes at `at` (negative: where the file stands); 0 or the error to answer. */
static int begin_writing(struct writing *writing, int fd, off_t at, size_t count)
{
    struct stat now;
    *writing = (struct writing){.allowed = count, .before = errno};
    if (!ours(fd, &now) || !S_ISREG(now.st_mode)) {
        errno = writing->before;
        return 0;
    }
    writing->slot = attach();
    if (get(&control->write_failures_left) > 0 && is_meant(fd) && take(&control->write_failures_left)) {
        add(&writing->slot->failed_writes, 1);
        return (int)get(&control->write_errno);
    }
    if (count > 1 && get(&control->short_writes_left) > 0 && is_meant(fd) && take(&control->short_writes_left)) {
        writing->allowed = count / 2;
        add(&writing->slot->shortened_writes, 1);
    }
    writing->ending = begin_call_on(WRITES, fd);
    if (writing->ending == WITHIN && count > 1) {
        writing->allowed = count / 2;
    }
    /* A file that this process meets for the first time may have been synced by another one, up to its end. */
    struct file *file = find_file(now.st_ino, (uint64_t)now.st_size);
    uint64_t synced_bytes = file != NULL ? get(&file->synced_bytes) : 0;
    if (synced_bytes > 0) {
        off_t from = at >= 0 ? at : lseek(fd, 0, SEEK_CUR);
        if (from >= 0 && (uint64_t)from < synced_bytes && (fcntl(fd, F_GETFL) & O_APPEND) == 0) {
            writing->overwritten = file;
            note_overwrite(file);
        }
    }
    errno = writing->before;
    return 0;
}

static ssize_t end_writing(const struct writing *writing, ssize_t result)
{
    if (writing->slot == NULL || result < 0) {
        return result;
    }
    add(&writing->slot->writes, 1);
    add(&writing->slot->written_bytes, (uint64_t)result);
    if (writing->overwritten != NULL) {
        /* A sync that began meanwhile has taken the note away, and may have missed these bytes. */
        note_overwrite(writing->overwritten);
    }
    end_call(writing->ending);
    errno = writing->before;
    return result;
}

static size_t bytes_in(const struct iovec *parts, int count)
{
    size_t bytes = 0;
    for (int at = 0; at < count; at++) {
        bytes += parts[at].iov_len;
    }
    return bytes;
}

INSTEAD ssize_t write(int fd, const void *bytes, size_t count)
{
    struct writing writing;
    int error = begin_writing(&writing, fd, -1, count);
    if (error != 0) {
        errno = error;
        return -1;
    }
    return end_writing(&writing, NEXT(write)(fd, bytes, writing.allowed));
}

INSTEAD ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at)
{
    struct writing writing;
    int error = begin_writing(&writing, fd, at, count);
    if (error != 0) {
        errno = error;
        return -1;
    }
    return end_writing(&writing, NEXT(pwrite)(fd, bytes, writing.allowed, at));
}

INSTEAD ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at)
{
    return pwrite(fd, bytes, count, at);
}

/* The first part that holds anything, up to the allowed bytes of a write that is to be short. */
static struct iovec first_part(const struct iovec *parts, int count, size_t allowed)
{
    for (int at = 0; at < count; at++) {
        if (parts[at].iov_len > 0) {
            return (struct iovec){parts[at].iov_base, parts[at].iov_len < allowed ? parts[at].iov_len : allowed};
        }
    }
    return (struct iovec){NULL, 0};
}

static ssize_t write_parts(int fd, const struct iovec *parts, int count, off_t at)
{
    struct writing writing;
    size_t bytes = count > 0 ? bytes_in(parts, count) : 0;
    int error = begin_writing(&writing, fd, at, bytes);
    if (error != 0) {
        errno = error;
        return -1;
    }
    struct iovec part;
    if (writing.allowed < bytes) {
        part = first_part(parts, count, writing.allowed);
        parts = &part;
        count = 1;
    }
    ssize_t result = at >= 0 ? NEXT(pwritev)(fd, parts, count, at) : NEXT(writev)(fd, parts, count);
    return end_writing(&writing, result);
}

INSTEAD ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return write_parts(fd, parts, count, -1);
}

INSTEAD ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at)
{
    if (at < 0) {
        errno = EINVAL;
        return -1;
    }
    return write_parts(fd, parts, count, at);
}

INSTEAD ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at)
{
    return pwritev(fd, parts, count, at);
}

/* === lengths === */

INSTEAD int ftruncate(int fd, off_t length)
{
    struct stat then;
    int before = errno;
    bool is_ours = ours(fd, &then);
    enum ending ending = is_ours ? begin_call_on(TRUNCATIONS, fd) : NEVER;
    errno = before;
    if (NEXT(ftruncate)(fd, length) != 0) {
        return -1;
    }
    if (is_ours && length < then.st_size) {
        note_truncation(then.st_ino, (uint64_t)length);
    }
    end_call(ending);
    errno = before;
    return 0;
}

INSTEAD int ftruncate64(int fd, off64_t length)
{
    return ftruncate(fd, length);
}

INSTEAD int truncate(const char *path, off_t length)
{
    struct place place;
    struct stat then;
    int before = errno;
    bool is_ours = find_place(AT_FDCWD, path, &place) && stat(path, &then) == 0;
    enum ending ending = is_ours ? begin_call(TRUNCATIONS, place.name) : NEVER;
    errno = before;
    if (NEXT(truncate)(path, length) != 0) {
        return -1;
    }
    if (is_ours && length < then.st_size) {
        note_truncation(then.st_ino, (uint64_t)length);
    }
    end_call(ending);
    errno = before;
    return 0;
}

INSTEAD int truncate64(const char *path, off64_t length)
{
    return truncate(path, length);
}

/* Reserving room changes no byte that was promised; punching, zeroing and shifting do. */
INSTEAD int fallocate(int fd, int mode, off_t at, off_t length)
{
    struct stat then;
    struct file *file = NULL;
    int before = errno;
    if ((mode & ~FALLOC_FL_KEEP_SIZE) != 0 && ours(fd, &then)) {
        file = find_file(then.st_ino, (uint64_t)then.st_size);
    }
    errno = before;
    int result = NEXT(fallocate)(fd, mode, at, length);
    int after = errno;
    if (result == 0 && file != NULL && at >= 0 && (uint64_t)at < get(&file->synced_bytes)) {
        note_overwrite(file);
    }
    errno = after;
    return result;
}

INSTEAD int fallocate64(int fd, int mode, off64_t at, off64_t length)
{
    return fallocate(fd, mode, at, length);
}

/* The kernel is called directly: allocators map memory before the next function can be looked up. */
INSTEAD void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t at)
{
    void *mapped = (void *)syscall(SYS_mmap, address, length, protection, flags, fd, at);
    int kind = flags & MAP_TYPE;
    bool writes = (protection & PROT_WRITE) != 0 && (kind == MAP_SHARED || kind == MAP_SHARED_VALIDATE);
    if (mapped != MAP_FAILED && writes && (flags & MAP_ANONYMOUS) == 0) {
        int before = errno;
        struct stat now;
        if (ours(fd, &now)) {
            append((struct record){.kind = MAPPED, .inode = now.st_ino}, NULL, NULL);
        }
        errno = before;
    }
    return mapped;
}

INSTEAD void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t at)
{
    return mmap(address, length, protection, flags, fd, at);
}
